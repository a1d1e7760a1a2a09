"""Where files lie: one interface over folders and buckets, chosen by the address."""

import asyncio
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from comfyline.errors import Unreachable
from comfyline.files import disk_full_told, why_not

T = TypeVar("T")

CHUNK_BYTES = 4 * 2**20
"""What is read before it is written or hashed: each change of threads costs milliseconds."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that lies in a place, and its size in bytes.

    `etag` changes with an object's content, without its quotes; a folder has none.
    """

    uri: str
    bytes: int
    etag: str = ""


class Place(ABC):
    """A kind of storage. A put is atomic or did not happen; all addresses are URIs.

    What cannot be told, because a server or a permission is in the way, is an `Unreachable`.
    """

    @abstractmethod
    async def size(self, uri: str) -> int | None:
        """Return the file's size in bytes, None only when there is truly no such file."""

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        """Return the size of each of many files, in their order."""
        return await all_of(map(self.size, uris))

    @abstractmethod
    async def put(
        self,
        source: Path,
        uri: str,
        media_type: str,
        *,
        sha256: str | None = None,
        metadata: Mapping[str, str] | None = None,
        new: bool = False,
    ) -> None:
        """Store a file under its final name, replacing what was there.

        With `sha256` nothing but these bytes gets the name: it raises `Altered` when the file holds
        others, and `Unreachable` when others arrive. `metadata` is kept beside the file where the
        storage has a place for it. With `new` whatever lies under the name is left alone: it raises
        `FileExistsError`, of any number of processes for all but one, where the storage can promise
        that. Raises `OSError` when the file itself cannot be read.
        """

    @abstractmethod
    async def put_text(self, text: str, uri: str, media_type: str, *, new: bool = False) -> None:
        """Store a small text under its final name, in the same way."""

    @abstractmethod
    def pieces(self, uri: str) -> AsyncGenerator[list[bytes], None]:
        """Read the file, some megabytes at a time, each in the pieces in which they came.

        Raises `FileNotFoundError`.
        """

    async def read(self, uri: str) -> AsyncGenerator[bytes, None]:
        """Read the file, some megabytes at a time. Raises `FileNotFoundError`."""
        async with aclosing(self.pieces(uri)) as chunks:
            async for pieces in chunks:
                yield b"".join(pieces)

    async def sha256(self, uri: str) -> str | None:
        """Return the hash of the file, which is read whole; None when there is no such file."""
        digest = hashlib.sha256()
        try:
            async with aclosing(self.read(uri)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(digest.update, chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    async def get(self, uri: str, target: Path) -> None:
        """Copy a file to local disk; a broken one leaves none. Raises `FileNotFoundError`."""
        async with aclosing(self.pieces(uri)) as chunks:
            pieces: list[bytes] = await anext(chunks, [])
            try:
                with (
                    disk_full_told(target),
                    await asyncio.to_thread(_begun, target, pieces) as file,
                ):
                    while pieces := await anext(chunks, []):
                        await asyncio.to_thread(file.writelines, pieces)
            except BaseException as error:
                with suppress(OSError):
                    await asyncio.to_thread(target.unlink, missing_ok=True)
                if not isinstance(error, OSError):
                    raise
                message = f"{target} cannot be written: {why_not(error)}"
                raise Unreachable(message) from error

    @abstractmethod
    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        """Return the files in a folder itself, not below it, that begin so: name and size."""

    @abstractmethod
    def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """List all files in a folder, or under a prefix, however deep; none is no error."""


def _begun(target: Path, pieces: list[bytes]) -> IO[bytes]:
    """Open a file and write its beginning in one go, which for most files is all of it."""
    file = target.open("wb")
    try:
        file.writelines(pieces)
    except OSError:
        with suppress(OSError):
            file.close()
        raise
    return file


async def all_of(work: Iterable[Coroutine[Any, Any, T]], at_once: int = 32) -> list[T]:
    """Return the results in order; raise the first error, when none of the work goes on."""
    left, found = iter(work), list[T]()
    while results := await asyncio.gather(*islice(left, at_once), return_exceptions=True):
        for result in results:
            if isinstance(result, BaseException):
                raise result
            found.append(result)
    return found


def join(folder: str, name: str) -> str:
    """Return the URI of a file in a folder: a local path, a `file://` or another address."""
    if not is_local(folder):
        return f"{folder.rstrip('/')}/{name}"
    if "/" in name or name in {"", "."}:
        return (folder_path(folder) / name).as_uri()
    return f"{_folder_uri(folder, os.getcwd())}/{quote_from_bytes(os.fsencode(name))}"  # noqa: PTH109


@lru_cache(maxsize=256)
def _folder_uri(folder: str, _here: str) -> str:
    """Remembered, as many files lie in one folder; a relative one is so only from `_here`."""
    return folder_path(folder).as_uri().rstrip("/")


def local_path(uri: str) -> Path:
    """Return the path behind a `file://` URI, also where its name is no valid UTF-8."""
    return Path(path_text(uri))


def path_text(uri: str) -> str:
    """Return that path as a text, which is quicker made where there are many."""
    is_plain = uri.startswith("file:///") and "?" not in uri and "#" not in uri
    path = uri.removeprefix("file://") if is_plain else urlsplit(uri).path
    return os.fsdecode(unquote_to_bytes(path))


def is_local(folder: str) -> bool:
    """Tell whether an address is one of this machine: a plain path or a `file://` URI."""
    return "://" not in folder or folder.startswith("file://")


def folder_path(folder: str) -> Path:
    """Return the local folder that a plain path or a `file://` address names."""
    return local_path(folder) if folder.startswith("file:") else Path(folder).absolute()
