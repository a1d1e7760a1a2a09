"""Waiting for requests to end: one loop a request, a few questions at a time, one policy.

The policy is `durations`: pure functions of how long requests of the same kind took, here and in
the ledger. A queue is followed by how fast places in it fall, and by nothing else: a rate of starts
that is taken from one's own looks confirms itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from comfyline.config.account import command
from comfyline.config.settings import Polling
from comfyline.errors import ComfylineError, DeadlinePassed, NotKnownNow
from comfyline.job import JobState
from comfyline.runcomfy.durations import UNKNOWN_WAIT, Estimate, Place, estimate, next_wait
from comfyline.runcomfy.wire import ENDS, RequestStatus

_AT_ONCE = 16
_REMEMBERED = 256
_LITTLE = 32
"""So few known durations that each new one is worth waking up for."""
_FADING = 0.98
"""What a seen fall in the queue counts for at the next one."""
_KINDS = 200
"""So many kinds are remembered: where each request is of its own, none is worth it."""
_FRESH = 1.0
"""A request older than this when its wait begins has been waited for before."""

Recall = Callable[[], Awaitable[Sequence[float]]]
"""Asks the ledger for the seconds that earlier requests of a kind took, the oldest first."""


async def _nothing() -> Sequence[float]:
    return ()


class _Kind:
    """What is known of one kind of request, here and now."""

    def __init__(self, ended: Iterable[float], polling: Polling) -> None:
        self.ended = deque(ended, _REMEMBERED)
        self.running: dict[str, float] = {}
        """Since when each of them runs, as the loop counts; those in the queue are not there."""
        self.news = asyncio.Event()
        self._polling: Polling = polling
        self._known: Estimate | None = None
        self._fell = self._seconds = 0.0
        self._stale_after = 0

    def known(self, now: float) -> Estimate | None:
        """Estimate anew when enough has ended since."""
        if self._stale_after <= 0:
            ages = [now - since for since in self.running.values()]
            self._known = estimate(self.ended, ages, self._polling)
            self._stale_after = max(1, len(self.ended) // _LITTLE)
        return self._known

    def end(self, seconds: float) -> None:
        """Learn from a request that took so many seconds."""
        self.ended.append(seconds)
        self._stale_after -= 1
        if len(self.ended) <= _LITTLE:
            self.news.set()
            self.news = asyncio.Event()

    def fall(self, places: int, seconds: float) -> None:
        """Learn from a request that moved up by so many places."""
        self._fell = self._fell * _FADING + places
        self._seconds = self._seconds * _FADING + seconds

    @property
    def seconds_a_place(self) -> float | None:
        """How long a place in the queue lasts, as far as falls in it were seen."""
        return self._seconds / self._fell if self._fell > 0 else None


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """The last answer about a request, and how long it took, as well as looks at it can tell.

    Seconds in the queue and at work are None where nobody looked before it ended. It ended at some
    moment in the last `lag_seconds`.
    """

    status: RequestStatus
    queue_seconds: float | None
    generation_seconds: float | None
    lag_seconds: float


class Poller:
    """Asks about requests until they end, at most sixteen at a time for the whole process.

    `ask` is the status call. A request that RunComfy does not know is asked about for
    `retry_timeout` seconds more. `polling` is the trade between calls and lag.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[RequestStatus]],
        retry_timeout: float,
        polling: Polling = "balanced",
    ) -> None:
        self._ask = ask
        self._retry_timeout = retry_timeout
        self._polling: Polling = polling
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._kinds: dict[str, asyncio.Task[_Kind]] = {}

    async def wait(
        self,
        request_id: str,
        *,
        age: float,
        time_left: float,
        hear: Callable[[RequestStatus], Awaitable[None]],
        kind: str = "",
        recall: Recall = _nothing,
    ) -> RequestEnd:
        """Return how the request ended.

        `age` and `time_left` are in seconds and come from the ledger, so that a restart goes on
        where the last process stopped. `hear` is told every answer. Requests of one `kind` take
        about as long as one another; of a new one, `recall` is asked once. Raises `DeadlinePassed`
        when the time is over, and whatever the status call raises.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        deadline = began + time_left
        watched = _Watched(request_id, began - age, await self._of(kind, recall), age <= _FRESH)
        unknown_since: float | None = None
        # The first question is due at once when the request is old, as after a restart.
        due = 0.0 if age > _FRESH else watched.due(began)
        try:
            while True:
                await watched.sleep(due, deadline, clock)
                status = None
                try:
                    async with self._gate:
                        status = await self._ask(request_id)
                    unknown_since = None
                except NotKnownNow:
                    unknown_since = clock() if unknown_since is None else unknown_since
                    if clock() - unknown_since >= self._retry_timeout:
                        raise
                watched.look(status, clock())
                if status:
                    await hear(status)
                    if status.state in ENDS:
                        return watched.end(status)
                if clock() >= deadline:
                    raise _too_late(request_id)
                due = watched.due(clock()) if status else clock() + UNKNOWN_WAIT
        finally:
            watched.leave()

    async def _of(self, kind: str, recall: Recall) -> _Kind:
        """Return what is known of a kind; the first to ask has the ledger asked, for all."""
        if kind not in self._kinds:
            if len(self._kinds) == _KINDS:
                # Who waits for one of the oldest kind has it still.
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = asyncio.create_task(self._begin(recall))
        return await asyncio.shield(self._kinds[kind])

    async def _begin(self, recall: Recall) -> _Kind:
        # What cannot be read is learned anew.
        with suppress(ComfylineError):
            return _Kind(await recall(), self._polling)
        return _Kind((), self._polling)


class _Watched:
    """One request as its wait sees it: when it was looked at last, and where it stood."""

    def __init__(self, request_id: str, born: float, kind: _Kind, followed: bool) -> None:  # noqa: FBT001
        self._id = request_id
        self._kind = kind
        self._followed = followed
        self._born = self._since = self._looked = born
        self._place: int | None = None
        self._in_queue = False
        self._lag = 0.0
        self._ran: float | None = None
        kind.running[request_id] = born

    def due(self, now: float) -> float:
        """Return when to look again, as far as is known now."""
        place, age = None, self._looked - self._since
        if self._place is not None:
            place, age = Place(self._place, self._kind.seconds_a_place), 0.0
        waited = self._looked - self._born
        return self._looked + next_wait(self._kind.known(now), age, waited, place)

    async def sleep(self, due: float, deadline: float, clock: Callable[[], float]) -> None:
        """Sleep until the next look is due; news of the kind may bring it nearer, or put it off."""
        while (left := min(due, deadline) - clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._kind.news.wait()
                due = self.due(clock())

    def look(self, status: RequestStatus | None, now: float) -> None:
        """Take in an answer, None for one that RunComfy does not know."""
        before, self._looked = self._looked, now
        followed, self._followed = self._followed, True
        if status is None:
            return
        if status.state is JobState.IN_QUEUE:
            self._kind.running.pop(self._id, None)
            place = status.queue_position
            if self._place is not None and place is not None:
                self._kind.fall(max(0, self._place - place), now - before)
            self._place, self._in_queue = place, True
            return
        if self._in_queue:
            self._since = self._began(before, now)
            self._kind.running[self._id] = self._since
            self._place, self._in_queue = None, False
        if status.state in ENDS:
            # It ended somewhere between two looks; before the first, nobody knows when.
            self._lag = now - max(before, self._since)
            self._ran = now - self._lag / 2 - self._since if followed else None
        if status.state is JobState.COMPLETED and self._ran is not None:
            self._kind.end(self._ran)

    def end(self, status: RequestStatus) -> RequestEnd:
        """Return what the looks tell, after the last of them."""
        queue = None if self._ran is None else self._since - self._born
        return RequestEnd(status, queue, self._ran, self._lag)

    def _began(self, before: float, now: float) -> float:
        """Estimate when a request left the queue, between two looks."""
        seconds = self._kind.seconds_a_place
        if self._place is None or seconds is None:
            return (before + now) / 2
        return min(now, before + (self._place + 0.5) * seconds)

    def leave(self) -> None:
        """Count this request no longer."""
        self._kind.running.pop(self._id, None)


def _too_late(request_id: str) -> DeadlinePassed:
    return DeadlinePassed(
        f"Request {request_id} did not end within the job's timeout",
        hint=f"It continues at RunComfy and is not lost: {command('reconcile')} or the next run "
        "collects it.",
        request_id=request_id,
    )
