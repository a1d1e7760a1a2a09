"""One policy for what may be asked again, and one retry budget for all calls of a run.

The paid POST is not repeated here: whether it may be is the ledger's decision.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception

from comfyline.config.duration import format_duration
from comfyline.errors import ComfylineError

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 10.0
_DOUBLINGS = 10

_LAST_TRIES = 8.0
"""Seconds after the budget is spent within which calls under way may still end."""
_UNHEARD_OF = 120.0
"""A failure so much older than the budget says nothing any more; longer than any one try."""
_QUIET = 0.5
"""Seconds that RunComfy may be away without a word."""
_SELDOM = 30.0
"""Seconds between two words about the same outage."""

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class RetryBudget:
    """How long a run goes on asking a RunComfy that is away: one budget for all of its calls.

    It runs for `retry_timeout` seconds from the first failure without an answer since; `clock` is
    monotonic seconds. Any answer fills it again. `where` names in messages who is asked; `say` is
    told now and then what is waited for.
    """

    def __init__(
        self,
        retry_timeout: float,
        clock: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
        *,
        where: str = "its address",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._retry_timeout = retry_timeout
        self._where = where
        self._say = say
        self._since: float | None = None
        self._failed_at = 0.0
        self._said_at: float | None = None
        self._given_up: ComfylineError | None = None
        self._held_until = -math.inf
        self.now = clock
        self.sleep = sleep

    @property
    def spent(self) -> ComfylineError | None:
        """Why nothing more is begun, once all of it was waited in vain; None until then.

        A new error each time, because whoever raises it adds a request to it.
        """
        return self.final(self._given_up) if self._given_up else None

    @property
    def seconds_for_a_try(self) -> float:
        """How long one more try may take for the run to end in time; none is left at 0."""
        if self._since is None:
            return math.inf
        left = self._since + self._retry_timeout + _LAST_TRIES - self.now()
        return max(left, 0.0) if self._given_up else max(left, _LAST_TRIES)

    async def repeat(
        self, ask: Callable[[], Awaitable[T]], waits_for: Callable[[ComfylineError], bool]
    ) -> T:
        """Ask until there is an answer, an error that does not pass, or nothing left of the budget.

        Of the errors that do not pass, those that it `waits_for` are asked about again as well.
        """
        began, failing_since, left = self.now(), math.inf, 0.0
        told: float | None = None

        async def once() -> T:
            nonlocal began
            # Told to come back later, no call asks before: they all go to one account.
            if (held := self._held_until - self.now()) > 0:
                await self.sleep(held)
            if self.seconds_for_a_try <= 0 and (spent := self.spent):
                raise spent
            began = self.now()
            try:
                answer = await ask()
            except ComfylineError as error:
                if not error.passing:
                    self.answered()
                if error.retry_after and error.retry_after <= self._retry_timeout:
                    self._held_until = max(self._held_until, self.now() + error.retry_after)
                raise
            self.answered()
            return answer

        def is_worth_it(error: BaseException) -> bool:
            nonlocal failing_since, left, told
            if not isinstance(error, ComfylineError) or not (error.passing or waits_for(error)):
                return False
            failing_since = min(failing_since, self.now())
            left = self.failed(error, failing_since, self.now() - began)
            told = error.retry_after
            return 0 < left >= (told or 0)

        def wait(tries: int) -> float:
            return min(backoff(tries - 1, told), left)

        try:
            return await repeat(once, is_worth_it, wait, sleep=self.sleep)
        except ComfylineError as error:
            raise self.final(error) from error.__cause__

    def answered(self) -> None:
        """Note that RunComfy answered: whatever was, is over."""
        if self._said_at is not None:
            self._say("RunComfy answers again")
        self._since = self._said_at = self._given_up = None

    def failed(self, error: ComfylineError, failing_since: float, took: float = 0) -> float:
        """Return the seconds for which it is still worth asking, after a call ended in `error`.

        `failing_since` is when that very call failed first: one request that RunComfy always
        answers with an error would otherwise be asked about for as long as others are answered.
        `took` is how long the last try of it was waited for in silence.
        """
        now = self.now()
        if not error.passing:
            # An answer, only not the one that is waited for.
            return self._retry_timeout - (now - failing_since)
        if self._since is None or now - self._failed_at > self._retry_timeout + _UNHEARD_OF:
            # While nobody asked, it may have been back.
            self._since = now
        self._failed_at = now
        left = self._retry_timeout - (now - self._since)
        if left <= 0:
            self._given_up = self._given_up or error
        else:
            self._tell(error, now - self._since + took, left)
        return min(left, self._retry_timeout - (now - failing_since))

    def final(self, error: ComfylineError) -> ComfylineError:
        """Make the error of a call that is given up: who was asked, and for how long."""
        if not error.passing:
            return error
        how_long = f"for {format_duration(self._retry_timeout)} " if self._retry_timeout else ""
        asked = f"asked {how_long}at {self._where}"
        told = type(error)(
            f"{error.message} ({asked})",
            hint=error.hint,
            request_id=error.request_id,
            retry_after=error.retry_after,
        )
        told.passing = False
        return told

    def _tell(self, error: ComfylineError, waited: float, left: float) -> None:
        now = self.now()
        quiet = waited < _QUIET if self._said_at is None else now - self._said_at < _SELDOM
        if not quiet:
            self._said_at = now
            more = format_duration(max(1, round(left)))
            self._say(f"waiting for RunComfy at {self._where}, up to {more} more: {error.message}")


async def repeat(
    once: Callable[[], Awaitable[T]],
    is_worth_it: Callable[[BaseException], bool],
    wait: Callable[[int], float],
    *,
    sleep: Sleep,
) -> T:
    """Try until it succeeds or an error is not worth another try; `wait` is told the tries."""
    retrying = AsyncRetrying(
        retry=retry_if_exception(is_worth_it),
        wait=lambda state: wait(state.attempt_number),
        sleep=sleep,
    )
    return await retrying(once)


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Return the seconds before try `attempt` + 1: exponential, or as told; never quite the same.

    Told 0, it still waits a moment: RunComfy is not asked in a tight loop.
    """
    jitter = random.uniform(0.5, 1)  # noqa: S311  # jitter is no secret
    if retry_after is not None:
        return retry_after + jitter * _FIRST_WAIT
    return jitter * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempt, _DOUBLINGS))


def read_retry_after(value: str) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds; None for neither."""
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
