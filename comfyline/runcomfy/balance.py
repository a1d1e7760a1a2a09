"""The account's balance as evidence: around each POST, and not more often than needed."""

import time
from collections.abc import Awaitable, Callable

from comfyline.errors import ComfylineError

_FRESH = 5.0
"""Seconds for which a balance is as good as asked for."""


class BalanceCache:
    """Remembers what the account held; without a `balance_url` in the profile it never knows.

    `ask` answers in US dollars, None when nobody can say.
    """

    def __init__(self, ask: Callable[[], Awaitable[float | None]]) -> None:
        self._ask = ask
        self._asked_at = float("-inf")
        self._balance: float | None = None

    async def recent(self) -> float | None:
        """Return the balance before a POST: a few seconds old at most."""
        is_fresh = time.monotonic() - self._asked_at < _FRESH
        return self._balance if is_fresh else await self.now()

    async def now(self) -> float | None:
        """Ask for the balance. It is only evidence: what goes wrong makes it unknown."""
        try:
            self._balance = await self._ask()
        except ComfylineError:
            self._balance = None
        self._asked_at = time.monotonic()
        return self._balance
