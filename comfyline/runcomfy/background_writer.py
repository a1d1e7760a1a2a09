"""Bytes are written in a thread while the next ones arrive."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

_BATCH = 1024 * 1024


class BackgroundWriter:
    """Hands what arrives to `write`, in order, a batch at a time and one batch behind.

    Used as an async context manager: at its end all that was taken has been written, also after an
    error. No more than two batches are held. What `write` raises is raised here.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._held: list[bytes] = []
        self._size = 0
        self._working: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Start nothing by itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the rest."""
        await self.hand_over()
        await self._finished()

    async def write(self, piece: bytes) -> None:
        """Take the next bytes; wait when the disk does not keep up."""
        self._held.append(piece)
        self._size += len(piece)
        if self._size >= _BATCH:
            await self.hand_over()

    async def hand_over(self) -> None:
        """Have what is held written now, without waiting for it."""
        await self._finished()
        if self._held:
            pieces, self._held, self._size = self._held, [], 0
            self._working = asyncio.ensure_future(asyncio.to_thread(self._write_all, pieces))

    async def _finished(self) -> None:
        working, self._working = self._working, None
        if working:
            await working

    def _write_all(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._write(piece)
