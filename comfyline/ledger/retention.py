"""How long RunComfy still keeps what was paid for and is not stored.

RunComfy deletes a result after 7 days; counted here from the submission, which is the safe side.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from comfyline.ledger.attempts import KEPT, Attempt
from comfyline.ledger.queries import UNFINISHED

BETWEEN_LOOKS = timedelta(hours=3)
"""How long RunComfy has not known a request before it may count as lost: no deploy takes that."""


def is_lost(submitted_at: datetime, missing_since: datetime, now: datetime) -> bool:
    """Return whether a request that RunComfy does not know, now and since then, is lost.

    Never before its 7 days are over, and never because of one answer.
    """
    return now >= submitted_at + KEPT and now >= missing_since + BETWEEN_LOOKS


class Urgency(IntEnum):
    """How near the end is; each is to be said louder than the one before."""

    NONE = 0
    SOON = 48
    PRESSING = 24
    LAST_HOURS = 6
    OVER = -1

    @property
    def word(self) -> str:
        """The name in `--json`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class AtRisk:
    """Something paid for that is not stored, and what is left of its 7 days; negative when over."""

    attempt: Attempt
    left: timedelta
    urgency: Urgency


def kept_until(attempt: Attempt) -> datetime | None:
    """Return until when an unstored result is surely kept; None if it needs no keeping."""
    if attempt.state not in UNFINISHED or attempt.submitted_at is None:
        return None
    return attempt.submitted_at + KEPT


def urgency_of(left: timedelta) -> Urgency:
    """Return how urgent it is with so much time left."""
    if left <= timedelta(0):
        return Urgency.OVER
    for urgency in (Urgency.LAST_HOURS, Urgency.PRESSING, Urgency.SOON):
        if left <= timedelta(hours=urgency):
            return urgency
    return Urgency.NONE


def at_risk(attempts: Iterable[Attempt], now: datetime) -> list[AtRisk]:
    """Of some attempts those that have little time left, the most urgent first."""
    ends = ((attempt, kept_until(attempt)) for attempt in attempts)
    found = [
        AtRisk(attempt, end - now, urgency_of(end - now))
        for attempt, end in ends
        if end is not None
    ]
    return sorted(
        (one for one in found if one.urgency is not Urgency.NONE), key=lambda one: one.left
    )
