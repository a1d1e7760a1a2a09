"""How a run is told to stop in order: once, from wherever, with a reason.

Whoever starts a flow puts a `Stop` in force and may pull it; the flow looks at it by context,
because flow parameters must stay plain JSON.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar


class Stop:
    """Whether a run is to stop: it submits nothing more and withdraws what is queued.

    To be pulled in the thread of the event loop.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.is_heeded = False
        """Whether a run looks at it already; before that, nothing has begun."""
        self._pulled = asyncio.Event()
        self._sending = 0
        self._sent = asyncio.Event()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Marks a POST under way: who leaves before it is written down leaves a doubt."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._sent.set()
                self._sent.clear()

    async def nothing_sending(self, seconds: float) -> None:
        """Returns when no POST is under way, after so many seconds in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._sending:
                    await self._sent.wait()

    @property
    def is_pulled(self) -> bool:
        """Whether the run was told to stop."""
        return self._pulled.is_set()

    def pull(self, reason: str) -> None:
        """Tells the run to stop; the first reason counts."""
        self.reason = self.reason or reason
        self._pulled.set()

    async def pulled(self) -> None:
        """Returns when the run is told to stop."""
        await self._pulled.wait()


_stop: ContextVar[Stop | None] = ContextVar("comfyline_stop", default=None)


def current_stop() -> Stop:
    """The one in force; a new one, which nobody pulls, where there is none."""
    return _stop.get() or Stop()


@contextmanager
def stopped_by(stop: Stop) -> Iterator[None]:
    """Puts a `Stop` in force for what is started inside the block."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)
