"""A file on its way to a bucket: read in parts into buffers that are lent, hashed as it goes."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from comfyline.errors import Altered, InputInvalid, Problem

T = TypeVar("T")

PART_BYTES = 8 * 1024 * 1024
MOST_PARTS = 10_000
"""S3 takes no more of one object."""
_READ_BYTES = 256 * 1024
"""Read and hashed at a time: what fits into the cache is hashed faster."""


class Buffers:
    """Room for a few parts, which bounds what all uploads together hold in memory."""

    def __init__(self, most: int) -> None:
        self._room = asyncio.Semaphore(most)
        self._free: list[bytearray] = []

    async def take(self) -> bytearray:
        """A buffer for one part, as soon as there is one; whoever takes it gives it back."""
        await self._room.acquire()
        return self._free.pop() if self._free else bytearray(PART_BYTES)

    def give_back(self, buffer: bytearray, *, is_free: bool) -> None:
        """Makes room. What may still be on its way somewhere must not be written over."""
        if is_free:
            self._free.append(buffer)
        self._room.release()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a file, in a buffer that is lent."""

    number: int
    buffer: bytearray
    size: int
    md5: bytes

    @property
    def body(self) -> memoryview:
        """The bytes."""
        return memoryview(self.buffer)[: self.size]

    @property
    def content_md5(self) -> str:
        """The header by which every S3 server checks what arrives."""
        return content_md5(self.md5)


class Parts:
    """An open file in parts, and the hash of what has been read of it.

    With `sha256` it is also found out whether it is the file that it is to be.
    """

    def __init__(self, file: FileIO, source: Path, sha256: str | None, buffers: Buffers) -> None:
        self._file = file
        self._source = source
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._buffers = buffers
        self._turns = asyncio.Lock()
        self._read = 0
        self._ended = False

    async def next(self) -> Part | None:
        """The next part, None at the end; an empty file has one."""
        async with self._turns:
            if self._ended:
                return None
            buffer = await self._buffers.take()
            part = None
            try:
                part = await asyncio.to_thread(self._fill, buffer)
            finally:
                if part is None:
                    self._buffers.give_back(buffer, is_free=False)
            self._read += 1
            self._ended = part.size < PART_BYTES
            if part.size == 0 and self._read > 1:
                self._buffers.give_back(buffer, is_free=True)
                return None
            return part

    def end(self) -> None:
        """Lets no more be read."""
        self._ended = True

    def prove(self) -> None:
        """Raises `Altered` when what was read is not what was to be read."""
        if self._sha256 is not None and self._digest.hexdigest() != self._sha256:
            raise Altered(self._source)

    def _fill(self, buffer: bytearray) -> Part:
        if self._read == MOST_PARTS:
            message = f"it is larger than {MOST_PARTS * PART_BYTES >> 30} GiB, the most for S3"
            raise InputInvalid([Problem(str(self._source), message)])
        view, size, md5 = memoryview(buffer), 0, hashlib.md5(usedforsecurity=False)
        while read := self._file.readinto(view[size : size + _READ_BYTES]):
            md5.update(view[size : size + read])
            if self._sha256 is not None:
                self._digest.update(view[size : size + read])
            size += read
        return Part(self._read + 1, buffer, size, md5.digest())


def content_md5(md5: bytes) -> str:
    """An MD5 as the header `Content-MD5` has it."""
    return b64encode(md5).decode()


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. Raises the first error, and only when none of the work goes on."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
