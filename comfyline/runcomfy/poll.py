"""Waiting for requests to end: one loop a request, a few questions at a time, one policy.

The policy is one pure function of what is known about a request. One that learns from past
durations replaces `next_poll` and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable

from comfyline.config.account import command
from comfyline.errors import DeadlinePassed, NotKnownNow
from comfyline.runcomfy.retry import Sleep
from comfyline.runcomfy.wire import ENDS, RequestStatus

_AT_ONCE = 16
_SHORTEST = 0.75
_LONGEST = 5.0
_SHARE_OF_AGE = 1 / 40
_SECONDS_A_PLACE = 0.4


def next_poll(age: float, queue_position: int | None) -> float:
    """Return the seconds until the next status call; `age` is seconds since submission.

    Nothing is known of how long a model takes, and then no interval is better than a fixed one:
    calls × lag is half the duration for each of them. So 0.75 s for the first half minute, and
    later a fortieth of the age, up to 5 s: a video of minutes is not asked for hundreds of times.
    A request far back in the queue is asked less, by its place.
    """
    delay = age * _SHARE_OF_AGE
    if queue_position:
        delay = max(delay, queue_position * _SECONDS_A_PLACE)
    return min(_LONGEST, max(_SHORTEST, delay))


class Poller:
    """Asks about requests until they end, at most sixteen at a time for the whole process.

    `ask` is the status call, `clock` is monotonic seconds. A request that RunComfy does not know is
    asked about for `retry_timeout` seconds more.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[RequestStatus]],
        clock: Callable[[], float],
        retry_timeout: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._retry_timeout = retry_timeout
        self._sleep = sleep
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def wait(
        self,
        request_id: str,
        *,
        age: float,
        time_left: float,
        hear: Callable[[RequestStatus], Awaitable[None]],
    ) -> RequestStatus:
        """Return the status with which the request ended.

        `age` and `time_left` are in seconds and come from the ledger, so that a restart goes on
        where the last process stopped. `hear` is told every answer. Raises `DeadlinePassed` when
        the time is over, and whatever the status call raises.
        """
        born = self._clock() - age
        deadline = self._clock() + time_left
        unknown_since: float | None = None
        # The first question is due at once when the request is old, as after a restart.
        delay = 0 if age > 1 else next_poll(age, None)
        while True:
            await self._sleep(delay)
            status = None
            try:
                async with self._gate:
                    status = await self._ask(request_id)
                unknown_since = None
            except NotKnownNow:
                unknown_since = self._clock() if unknown_since is None else unknown_since
                if self._clock() - unknown_since >= self._retry_timeout:
                    raise
            if status:
                await hear(status)
                if status.state in ENDS:
                    return status
            now = self._clock()
            if now >= deadline:
                raise _too_late(request_id)
            position = status.queue_position if status else None
            delay = min(next_poll(now - born, position), deadline - now)


def _too_late(request_id: str) -> DeadlinePassed:
    return DeadlinePassed(
        f"Request {request_id} did not end within the job's timeout",
        hint=f"It continues at RunComfy and is not lost: {command('reconcile')} or the next run "
        "collects it.",
        request_id=request_id,
    )
