"""Local folders: written under a temporary name, synced, renamed. Power loss leaves all or none."""
# ruff: noqa: D102  # `Place` says what its methods do

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from comfyline.errors import Altered, LeadsOutside, Unreachable
from comfyline.files import part_path, why_not
from comfyline.storage.place import (
    CHUNK_BYTES,
    Listed,
    Place,
    folder_path,
    local_path,
    path_text,
)

_STATS_AT_A_TIME = 500
"""Files looked up in one go: a hop into a thread costs more than a look."""
_READ_BYTES = 1024 * 1024
_NOT_HERE = {errno.ENOENT, errno.ENOTDIR}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
"""How exFAT, some network file systems and containers say that they have no second names."""
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""How file systems of other machines say that they cannot sync a directory."""


class Folder(Place):
    """Files under `file://` URIs. With `root`, nothing is ever written outside of that folder.

    A `root` that is itself a symbolic link is followed: whoever named it chose so.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    async def size(self, uri: str) -> int | None:
        return (await self.sizes([uri]))[0]

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        found: list[int | None] = []
        for start in range(0, len(uris), _STATS_AT_A_TIME):
            some = uris[start : start + _STATS_AT_A_TIME]
            found += await asyncio.to_thread(list, map(_size, some))
        return found

    async def put(
        self,
        source: Path,
        uri: str,
        media_type: str,  # noqa: ARG002  # a folder keeps none
        *,
        sha256: str | None = None,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        new: bool = False,
    ) -> None:
        """Copy a file to its final name. Raises `OSError` and leaves no trace of the attempt.

        Raises `LeadsOutside` when a symbolic link leads out of the root.
        """

        def copy(target: BinaryIO) -> None:
            digest = hashlib.sha256()
            with source.open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
            if sha256 is not None and digest.hexdigest() != sha256:
                raise Altered(source)

        await asyncio.to_thread(self._write, local_path(uri), copy, new=new)

    async def put_text(
        self,
        text: str,
        uri: str,
        media_type: str,  # noqa: ARG002
        *,
        new: bool = False,
    ) -> None:
        def write(file: BinaryIO) -> None:
            file.write(text.encode())

        await asyncio.to_thread(self._write, local_path(uri), write, new=new)

    async def pieces(self, uri: str) -> AsyncGenerator[list[bytes], None]:
        try:
            with await asyncio.to_thread(_open, uri) as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield [chunk]
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(uri, error) from error

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """List all files in a folder and below it; a file is the only one in itself."""
        found = _list(folder_path(folder))
        while some := await asyncio.to_thread(lambda: list(islice(found, _STATS_AT_A_TIME))):
            for one in some:
                yield one

    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        return await asyncio.to_thread(_names, folder, beginning)

    def _write(self, target: Path, fill: Callable[[BinaryIO], object], *, new: bool) -> None:
        directory = target.parent
        if mistake := link_mistake(self._root or directory, directory):
            raise LeadsOutside(
                mistake,
                hint="Remove the link, or name the folder that it leads to under output.to.",
            )
        _make(directory)
        part = part_path(target)
        try:
            with part.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            _appear(part, target, new=new)
        finally:
            part.unlink(missing_ok=True)
        _sync(directory)


def link_mistake(root: Path, directory: Path) -> str:
    """Say how a directory below `root` leads out of it as things are; empty when it does not."""
    try:
        real = directory.resolve()
        if real.is_relative_to(root.resolve()):
            return ""
    except (OSError, RuntimeError):
        return ""  # The write says what is wrong.
    return f"{directory} leads outside of {root} to {real} through a symbolic link"


def _make(directory: Path) -> None:
    """Make a directory so that power loss does not take it away with what lies in it."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # Not the file that is to be written is in the way.
        why = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, why, str(directory)) from None
    for one in reversed(missing):
        _sync(one.parent)


def _sync(directory: Path) -> None:
    """Make a rename in a directory survive power loss, if the file system promises that."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # A folder that may be written but not listed.
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(handle)


def _appear(part: Path, target: Path, *, new: bool) -> None:
    """Give a file its final name; a link of that name is replaced or in the way, not followed."""
    if not new:
        part.replace(target)
        return
    try:
        # A second name is refused where one is taken, a rename never is.
        os.link(part, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        part.replace(target)


def _names(folder: str, beginning: str) -> dict[str, int]:
    path = folder_path(folder)
    found: dict[str, int] = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                # Sizes first where they matter: most of a big folder is somebody else's.
                if entry.name.startswith(beginning) and entry.is_file():
                    found[entry.name] = entry.stat().st_size
    except OSError as error:
        if error.errno in _NOT_HERE:
            return found
        raise _unreadable(path.as_uri(), error) from error
    return found


def _list(folder: Path) -> Iterator[Listed]:
    for path in [folder] if folder.is_file() else folder.rglob("*"):
        try:
            found = path.stat()
        except OSError:
            continue  # It went away, or leads nowhere.
        if stat.S_ISREG(found.st_mode):
            yield Listed(path.as_uri(), found.st_size)


def _size(uri: str) -> int | None:
    try:
        found = os.stat(path_text(uri))  # noqa: PTH116  # a `Path` takes longer than the look
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise _unreadable(uri, error) from error
    # A directory of that name is not the file, and the put that follows says so.
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a local file. Raises `OSError`. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(uri: str) -> BinaryIO:
    path = local_path(uri)
    if _size(uri) is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    return path.open("rb")


def _unreadable(uri: str, error: OSError) -> Unreachable:
    reason = why_not(error)
    return Unreachable(
        f"{local_path(uri)} cannot be read: {reason}",
        hint="Check the folder and its permissions.",
    )
