"""A file on its way to a bucket: read in parts, hashed as it goes."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from comfyline.errors import InputInvalid, Problem

T = TypeVar("T")


class Parts:
    """An open file in parts of `size` bytes, and the hash of what has been read of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._digest = hashlib.sha256()

    async def next(self) -> bytes:
        """The next part; empty at the end."""
        return await asyncio.to_thread(self._next)

    def prove(self, sha256: str | None, source: Path) -> None:
        """Raises `InputInvalid` when what was read is not what was to be read."""
        if sha256 is not None and self._digest.hexdigest() != sha256:
            message = "the file has changed since it was checked, so it is not uploaded"
            raise InputInvalid([Problem(str(source), message, "run again")])

    def _next(self) -> bytes:
        part = self._file.read(self._size)
        self._digest.update(part)
        return part


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. Raises the first error, and only when none of the work goes on."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
