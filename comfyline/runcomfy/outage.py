"""How long RunComfy has been away, shared by all calls of a process, so that all give up as one."""

import random
from collections.abc import Callable

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 10.0


class Outage:
    """Counts the time since the first failure after the last success.

    `patience` is in seconds; `clock` is monotonic seconds. With a hundred jobs waiting, the
    second job does not start a wait of its own when the first has already waited in vain.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._clock = clock
        self._since: float | None = None

    def answered(self) -> None:
        """RunComfy answered: whatever was, is over."""
        self._since = None

    def failed(self) -> bool:
        """One call failed; whether it is still worth waiting."""
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since < self._patience


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Seconds to wait before try `attempt` + 1: exponential with jitter, or as told."""
    if retry_after is not None:
        return retry_after
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt)
    return random.uniform(0.5, 1) * longest  # noqa: S311  # jitter is no secret
