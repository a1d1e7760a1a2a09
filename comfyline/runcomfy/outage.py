"""How long RunComfy has been away, shared by all calls of a process, so that all give up as one."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 10.0
_DOUBLINGS = 10

Sleep = Callable[[float], Awaitable[None]]


class Outage:
    """Counts the time since the first failure after the last success.

    `patience` is in seconds; `clock` is monotonic seconds. With a hundred jobs waiting, the
    second job does not start a wait of its own when the first has already waited in vain.
    """

    def __init__(
        self, patience: float, clock: Callable[[], float], sleep: Sleep = asyncio.sleep
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._since: float | None = None
        self.now = clock
        self.sleep = sleep

    def answered(self) -> None:
        """RunComfy answered: whatever was, is over."""
        self._since = None

    def time_left(self, failing_since: float) -> float:
        """Seconds for which it is still worth asking, after a call failed.

        `failing_since` is when that very call failed first: one request that RunComfy always
        answers with an error would otherwise be asked about for as long as others are answered.
        """
        if self._since is None:
            self._since = self._clock()
        return self._patience - (self._clock() - min(self._since, failing_since))


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Seconds to wait before try `attempt` + 1: exponential, or as told; never quite the same.

    Told 0, it still waits a moment: RunComfy is not asked in a tight loop.
    """
    jitter = random.uniform(0.5, 1)  # noqa: S311  # jitter is no secret
    if retry_after is not None:
        return retry_after + jitter * _FIRST_WAIT
    return jitter * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempt, _DOUBLINGS))


def read_retry_after(value: str) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or an HTTP date; None for neither."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(http_date: str) -> float:
    try:
        when = parsedate_to_datetime(http_date)
        # "-0000" makes a naive time, which by RFC 5322 is UTC all the same.
        return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan
