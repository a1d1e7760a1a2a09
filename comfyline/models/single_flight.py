"""Questions that are asked once, however many want the answer at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Remembers each answer for good, and an error for `patience` seconds only.

    Without that patience a thousand jobs would each wait anew for a server that is away.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[T]],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._clock = clock
        self._answers: dict[str, T] = {}
        self._asking: dict[str, asyncio.Task[T]] = {}
        self._failed: dict[str, tuple[float, BaseException]] = {}

    async def get(self, name: str) -> T:
        """Return the answer for a name, or the error of who asked last."""
        if name in self._answers:
            return self._answers[name]
        if name in self._failed:
            when, error = self._failed[name]
            if self._clock() - when < self._patience:
                raise error.with_traceback(None)
        if name not in self._asking:
            self._asking[name] = asyncio.create_task(self._answer(name))
        # Shielded: who is cancelled must not cancel what others wait for as well.
        return await asyncio.shield(self._asking[name])

    async def _answer(self, name: str) -> T:
        try:
            self._answers[name] = await self._ask(name)
        except Exception as error:
            self._failed[name] = (self._clock(), error)
            raise
        finally:
            del self._asking[name]
        return self._answers[name]
