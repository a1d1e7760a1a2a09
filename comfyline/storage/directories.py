"""Directories that are written in: made so that power loss keeps them, and never left by a link."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comfyline.errors import LeadsOutside

_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""How file systems of other machines say that they cannot sync a directory."""
# A folder may be writable and not readable; where the system can, it is opened as a place only.
_AS_PLACE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def opened_inside(root: Path, directory: Path) -> Iterator[int]:
    """Opens a directory that is `root` or lies below it, making what is missing.

    What is given back can be used as `dir_fd`: no link that somebody puts in the way afterwards
    leads elsewhere. Links below `root` are followed as long as they stay there. Raises
    `LeadsOutside` for one that does not, and `OSError`.
    """
    _make(root)
    if mistake := link_mistake(root, directory):
        raise LeadsOutside(
            mistake,
            hint="Take the link away, or name the folder that it leads to under output.to.",
        )
    real_root, real = root.resolve(), directory.resolve()
    handle = os.open(real_root, _AS_PLACE)
    try:
        for part in real.relative_to(real_root).parts:
            below = _step_into(part, handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def link_mistake(root: Path, directory: Path) -> str:
    """How a directory below `root` leads out of it as things are; empty when it does not."""
    try:
        real = directory.resolve()
        if real.is_relative_to(root.resolve()):
            return ""
    except (OSError, RuntimeError):
        return ""  # The write says what is wrong.
    return f"{directory} leads out of {root} to {real} by a symbolic link"


def sync_directory(place: int) -> None:
    """Makes a rename in an open directory survive power loss, if the file system promises that."""
    try:
        # What is open as a place cannot be synced.
        handle = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    except PermissionError:
        return  # A folder that may be written but not listed.
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(handle)


def _make(directory: Path) -> None:
    """Makes a directory so that power loss does not take it away with what lies in it."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _no_directory(directory) from error
    for one in reversed(missing):
        _sync_path(one.parent)


def _step_into(name: str, place: int) -> int:
    try:
        os.mkdir(name, dir_fd=place)
    except FileExistsError:
        pass
    else:
        sync_directory(place)
    # Resolved already: a link here was put there a moment ago.
    return os.open(name, _AS_PLACE | os.O_NOFOLLOW, dir_fd=place)


def _sync_path(directory: Path) -> None:
    handle = os.open(directory, _AS_PLACE)
    try:
        sync_directory(handle)
    finally:
        os.close(handle)


def _no_directory(path: Path) -> NotADirectoryError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
