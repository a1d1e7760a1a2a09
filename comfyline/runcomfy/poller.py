"""All waiting for RunComfy, scheduled in one place: one heap, one loop, one policy.

A job hands its request over and waits for a future. What is due is asked, at most `_AT_ONCE`
calls at a time, so that a thousand waiting jobs cost one sleeping task.
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from comfyline.config.account import command
from comfyline.errors import DeadlinePassed, NotKnownNow
from comfyline.runcomfy.polling import Observation, PollPolicy
from comfyline.runcomfy.wire import ENDS, RequestStatus

_AT_ONCE = 16

Ask = Callable[[str], Awaitable[RequestStatus]]
Hear = Callable[[RequestStatus], Awaitable[None]]


@dataclass(order=True, slots=True)
class _Watch:
    """One request that somebody waits for, ordered by when it is due."""

    due: float
    turn: int
    request_id: str = field(compare=False)
    born: float = field(compare=False)
    deadline: float = field(compare=False)
    hear: Hear = field(compare=False)
    ended: asyncio.Future[RequestStatus] = field(compare=False)
    unknown_since: float | None = field(compare=False, default=None)


class Poller:
    """Waits for requests to end; used as an async context manager.

    `ask` is the status call, `clock` is monotonic seconds. A request that RunComfy does not know is
    asked about for `patience` seconds more.
    """

    def __init__(
        self, ask: Ask, policy: PollPolicy, clock: Callable[[], float], patience: float
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._policy = policy
        self._clock = clock
        self._watches: list[_Watch] = []
        self._turns = itertools.count()
        self._changed = asyncio.Event()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[RequestStatus]] = set()
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the one loop."""
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the loop and every call under way; whoever still waits is cancelled."""
        tasks = [task for task in (self._loop, *self._calls) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop = None
        # Not by the calls themselves: one that was cancelled before its first step ran no line.
        for ended in self._waiting:
            ended.cancel()

    async def wait(
        self, request_id: str, *, age: float, time_left: float, hear: Hear
    ) -> RequestStatus:
        """Returns the status with which the request ended.

        `age` and `time_left` are in seconds and come from the ledger, so that a restart goes on
        where the last process stopped. `hear` is told every answer. Raises `DeadlinePassed` when
        the time is over, and whatever the status call raises.
        """
        if self._loop is None:
            raise RuntimeError("the poller is not open")
        now = self._clock()
        watch = _Watch(
            # The first question is due at once when the request is old, as after a restart.
            due=now + (0 if age > 1 else self._policy(Observation(age, None, None))),
            turn=next(self._turns),
            request_id=request_id,
            born=now - age,
            deadline=now + time_left,
            hear=hear,
            ended=asyncio.get_running_loop().create_future(),
        )
        self._waiting.add(watch.ended)
        self._push(watch)
        try:
            return await watch.ended
        finally:
            self._waiting.discard(watch.ended)

    def _push(self, watch: _Watch) -> None:
        heapq.heappush(self._watches, watch)
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            while self._watches and self._watches[0].due <= now:
                call = asyncio.create_task(self._turn(heapq.heappop(self._watches)))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            pause = self._watches[0].due - now if self._watches else None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)

    async def _turn(self, watch: _Watch) -> None:
        """Asks once for one request, then ends its wait or puts it back in the heap."""
        try:
            async with self._gate:
                if watch.ended.done():
                    return
                status = await self._question(watch)
            if status:
                await watch.hear(status)
            due = self._next_due(watch, status)
        except asyncio.CancelledError:
            watch.ended.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # it belongs to whoever waits
            if not watch.ended.done():
                watch.ended.set_exception(error)
            return
        if watch.ended.done():
            return
        if due is not None:
            watch.due = due
            self._push(watch)
        elif status:
            watch.ended.set_result(status)

    async def _question(self, watch: _Watch) -> RequestStatus | None:
        """Where the request stands; None while RunComfy does not know it."""
        try:
            status = await self._ask(watch.request_id)
        except NotKnownNow:
            if watch.unknown_since is None:
                watch.unknown_since = self._clock()
            if self._clock() - watch.unknown_since >= self._patience:
                raise
            return None
        watch.unknown_since = None
        return status

    def _next_due(self, watch: _Watch, status: RequestStatus | None) -> float | None:
        """When to ask again; None at the request's end. Raises `DeadlinePassed`."""
        state = status.state if status else None
        if state in ENDS:
            return None
        now = self._clock()
        if now >= watch.deadline:
            raise _too_late(watch.request_id)
        position = status.queue_position if status else None
        delay = self._policy(Observation(now - watch.born, state, position))
        return min(now + delay, watch.deadline)


def _too_late(request_id: str) -> DeadlinePassed:
    return DeadlinePassed(
        f"Request {request_id} did not end within the job's timeout",
        hint=f"It goes on at RunComfy and is not lost: {command('reconcile')} or the next run "
        "collects it.",
        request_id=request_id,
    )
