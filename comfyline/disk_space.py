"""Room on the disk: looked for before it is needed, and told as such where there is none."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from comfyline.errors import DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MEGABYTE = 1_000_000


def require_space(directory: Path, needed: int) -> None:
    """Raise `DiskFull` unless the disk of a directory has so many bytes left."""
    free = _free(directory)
    if free is not None and free < needed:
        raise disk_full(directory, needed)


@contextmanager
def disk_full_told(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn the system's refusal to write `path` for want of room into a `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise disk_full(path.parent, needed) from error


def disk_full(directory: Path | str, needed: int = 0) -> DiskFull:
    """Say how much room there is, and how much there would have to be where that is known."""
    free = _free(Path(directory))
    told = [f"{_megabytes(needed)} needed"] if needed else []
    told += [f"{_megabytes(free)} free"] if free is not None else []
    return DiskFull(
        f"The disk of {directory} is full" + (f": {', '.join(told)}" if told else ""),
        hint="Make room, then run again: what was paid for is kept until then.",
    )


def is_full(error: OSError) -> bool:
    """Whether the system refuses to write for want of room."""
    return error.errno in _FULL


def _free(directory: Path) -> int | None:
    """The bytes that are free for this user; None where the system does not tell."""
    with suppress(OSError):
        there = next(one for one in (directory, *directory.parents) if one.exists())
        return shutil.disk_usage(there).free
    return None


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.1f} MB"
