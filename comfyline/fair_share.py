"""Who is next where several want the same slots: of the share that has the fewest of them.

A share is a name for those who divide slots among one another, such as one client's jobs. With one
share only, it is first come, first served.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


def next_share(waiting: Iterable[str], held: Mapping[str, int]) -> str:
    """Return the share whose turn it is: it holds the fewest, the first of those that do."""
    return min(waiting, key=lambda share: held.get(share, 0))


def may_take(share: str, free: int, held: Mapping[str, int], waiting: Iterable[str]) -> bool:
    """Return whether a share may take one of the `free` slots: one is left for whoever has fewer.

    `waiting` are the shares for which anybody waits, wherever.
    """
    mine = held.get(share, 0)
    fewer = {other for other in waiting if held.get(other, 0) < mine} - {share}
    return free > len(fewer)


def share_of(label: str, labels: Mapping[str, str]) -> str:
    """Return the share of a job with these labels, where slots are divided by one of them."""
    return f"{label}={labels.get(label, '')}"


class FairLine(Generic[T]):
    """A line for each share that waits; `held` is what each has already, kept by the owner."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self._waiting: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def shares(self) -> frozenset[str]:
        """The shares that wait."""
        return frozenset(self._waiting)

    def add(self, share: str, one: T) -> None:
        """Line one up behind those of its share."""
        self._waiting.setdefault(share, deque()).append(one)

    def take(self) -> tuple[str, T]:
        """Take out who is next, with its share, which is behind the others with as many then."""
        share = next_share(self._waiting, self.held)
        line = self._waiting.pop(share)
        one = line.popleft()
        if line:
            self._waiting[share] = line
        return share, one

    def discard(self, share: str, one: T) -> None:
        """Take out one that waits no longer, if it still does."""
        line = self._waiting.get(share, deque())
        if one in line:
            line.remove(one)
            if not line:
                del self._waiting[share]


class FairSlots:
    """A semaphore for so many at a time; a free slot goes to the share that holds the fewest.

    `held_elsewhere` counts for each share what it has besides.
    """

    def __init__(self, number: int) -> None:
        self.held_elsewhere: Counter[str] = Counter()
        self._free = number
        self._held: Counter[str] = Counter()
        self._line: FairLine[asyncio.Future[None]] = FairLine()

    @property
    def waiting(self) -> frozenset[str]:
        """The shares that wait for a slot."""
        return self._line.shares

    @asynccontextmanager
    async def of(self, share: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it in the block."""
        turn = asyncio.get_running_loop().create_future()
        self._line.add(share, turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._take_back(share)
            self._line.discard(share, turn)
            raise
        try:
            yield
        finally:
            self._take_back(share)

    def _take_back(self, share: str) -> None:
        self._held[share] -= 1
        self._free += 1
        self._give()

    def _give(self) -> None:
        while self._free and self._line:
            self._line.held = self._held + self.held_elsewhere
            share, turn = self._line.take()
            # Whoever is being cancelled takes none.
            if not turn.done():
                self._free -= 1
                self._held[share] += 1
                turn.set_result(None)
