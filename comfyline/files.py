"""Files that appear whole or not at all, the room for them, and what dead processes left.

A temporary file carries its process's name, as does a lock in the ledger, so that whoever comes
later can tell what was left behind from what is in use. A process id alone would not do: two
containers that share a folder may have the same one.
"""

import errno
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from comfyline.errors import DiskFull

_PREFIX, _SUFFIX = ".comfyline-", ".part"
_OWNER_PARTS = 5
_ABANDONED = 2 * 24 * 3600.0
"""Seconds after which a temporary file is a leftover, whoever made it, also another machine."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MEGABYTE = 1_000_000
_NAME_PARTS = 4
_STATE, _STARTED = 0, 19
"""Where a process's state and its start, in ticks since boot, stand in `/proc/PID/stat`."""


def part_path(target: Path) -> Path:
    """Return a temporary path beside `target`, where a rename to it is atomic."""
    owner = _as_name(this_process())
    return target.with_name(f"{_PREFIX}{owner}{secrets.token_hex(2)}{_SUFFIX}")


def work_path(directory: Path, number: int) -> Path:
    """Return where this process keeps one of its files in a directory it shares with others."""
    return directory / f"{_own_name(os.getpid())}-{number}"


def is_in_use(path: Path) -> bool:
    """Tell whether a work file may belong to another process that still lives.

    One of another machine, of which nobody can tell, is believed for some days.
    """
    name = path.name.rpartition("-")[0]
    owner = _owner(name)
    if owner is None or name == _own_name(os.getpid()) or is_dead(owner):
        return False
    try:
        return time.time() - path.stat().st_mtime <= _ABANDONED
    except FileNotFoundError:
        return False


def is_leftover(name: str, written: float) -> bool:
    """Tell whether a file of this name, last written then, is a dead process's temporary one."""
    if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)):
        return False
    if is_dead(_owner(name.removeprefix(_PREFIX).removesuffix(_SUFFIX))):
        return True
    return time.time() - written > _ABANDONED


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, renamed to it when the block ends well.

    When the block raises, the temporary file is removed and what was at `target` stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(target)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Write the names in a directory to its disk: a new one lasts only then. Raises `OSError`."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_parts(directory: Path) -> int:
    """Remove the temporary files of dead processes in one directory; return how many those were.

    What cannot be inspected or removed stays: it is in nobody's way.
    """
    removed = 0
    with suppress(OSError):
        for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            if is_leftover(path.name, path.stat().st_mtime):
                path.unlink(missing_ok=True)
                removed += 1
    return removed


@lru_cache(maxsize=1)
def _own_name(_pid: int) -> str:
    """Return the same name for all work files of a process; a forked one has another."""
    return _as_name(this_process())


def _as_name(owner: str) -> str:
    return owner.replace("/", "~").replace(":", "~")


def _owner(name: str) -> str | None:
    parts = name.rsplit("~", _OWNER_PARTS - 1)
    if len(parts) != _OWNER_PARTS:
        return None
    host, pid, machine, started, token = parts
    return f"{host}:{pid}/{machine}/{started}/{token}"


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
        hint="Free some space, then run again. What was paid for is kept until then.",
    )


def is_full(error: OSError) -> bool:
    """Tell whether the system refuses to write for want of room."""
    return error.errno in _FULL


def _free(directory: Path) -> int | None:
    """Return the bytes that are free for this user; None where the system does not tell."""
    with suppress(OSError):
        there = next(one for one in (directory, *directory.parents) if one.exists())
        return shutil.disk_usage(there).free
    return None


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.1f} MB"


def this_process() -> str:
    """Return a name for this process: `host:pid/machine/start/token`, never the same twice."""
    return f"{_this_process(os.getpid())}/{secrets.token_hex(4)}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> str:
    started = _stat(pid)[_STARTED] if _machine() else ""
    return f"{socket.gethostname()}:{pid}/{_machine()}/{started}"


def is_dead(owner: str | None) -> bool:
    """Return whether the process of that name has certainly ended.

    That can be said only of a process of this very boot and process namespace; anything else counts
    as alive.
    """
    parts = (owner or "").rsplit("/", 3)
    machine = _machine()
    if len(parts) != _NAME_PARTS or not machine or parts[1] != machine:
        return False
    pid = parts[0].rpartition(":")[2]
    try:
        # Asked of the kernel first: /proc can hide a process that lives.
        os.kill(int(pid), 0)
        seen = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    # Not by the time of day, which somebody may set: the same number again is another process.
    return seen[_STARTED] != parts[2] or seen[_STATE] in "ZX"


def _stat(pid: int) -> list[str]:
    # The name before the last bracket may hold anything, spaces and brackets too.
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return which boot and process namespace we are in; empty where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # In two containers the same number is two processes.
        return f"{boot[:13]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


def why_not(error: OSError) -> str:
    """Say why a file cannot be read or written, in the words of the operating system."""
    return error.strerror or str(error) or "the operating system gives no reason"
