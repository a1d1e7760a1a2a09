"""How long RunComfy still keeps what was paid for and is not stored, and warnings about it.

RunComfy deletes a result after 7 days; counted here from the submission, which is the safe side.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from comfyline.ledger.attempts import KEPT, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.queries import UNFINISHED

BETWEEN_LOOKS = timedelta(hours=3)
"""How long RunComfy has not known a request before it may count as lost: no deploy takes that."""

_NAMED = 20
"""How many are named one by one: the most urgent."""


def is_lost(submitted_at: datetime, missing_since: datetime, now: datetime) -> bool:
    """Return whether a request that RunComfy does not know, now and since then, is lost.

    Never before its 7 days are over, and never because of one answer.
    """
    return now >= submitted_at + KEPT and now >= missing_since + BETWEEN_LOOKS


class Urgency(IntEnum):
    """How near the end is, in hours; each is to be said louder than the one before."""

    NONE = 0
    SOON = 48
    PRESSING = 24
    LAST_HOURS = 6
    OVER = -1


@dataclass(frozen=True, slots=True)
class AtRisk:
    """Something paid for that is not stored, and what is left of its 7 days; negative when over."""

    attempt: Attempt
    left: timedelta
    urgency: Urgency

    def sentence(self) -> str:
        """Return how urgent it is, and about what."""
        checked, left = self.attempt.checked, _rough(self.left)
        what = (
            f"{short(checked.key)} {checked.job.label} ({checked.job.pipeline}), request "
            f"{self.attempt.request_id}, is paid for and not stored"
        )
        match self.urgency:
            case Urgency.OVER:
                ago = _rough(-self.left)
                return f"7 DAYS ARE OVER since {ago}, RunComfy may have deleted it: {what}"
            case Urgency.LAST_HOURS:
                return f"ONLY {left} LEFT before RunComfy deletes it: {what}"
            case Urgency.PRESSING:
                return f"LESS THAN 24 h LEFT ({left}) before RunComfy deletes it: {what}"
            case _:
                return f"less than 48 h left ({left}) before RunComfy deletes it: {what}"


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
    """Return those of some attempts that have little time left, the most urgent first."""
    found = [
        AtRisk(attempt, end - now, urgency_of(end - now))
        for attempt in attempts
        if (end := kept_until(attempt)) is not None
    ]
    return sorted((one for one in found if one.urgency), key=lambda one: one.left)


def warnings(attempts: Iterable[Attempt], now: datetime) -> list[tuple[Urgency, str]]:
    """Warn of each result that has little time left, the most urgent first, and say what to do."""
    found = at_risk(attempts, now)
    said = [(one.urgency, one.sentence()) for one in found[:_NAMED]]
    if (more := len(found) - _NAMED) > 0:
        said.append((found[_NAMED].urgency, f"and {more:,} more job{'s' * (more != 1)}"))
    by_command: dict[str, list[AtRisk]] = {}
    for one in found:
        by_command.setdefault(one.attempt.command("reconcile"), []).append(one)
    for command, some in by_command.items():
        them = "it" if len(some) == 1 else "them"
        said.append((some[0].urgency, f"{command} collects {them}: it costs nothing"))
    return said


def _rough(left: timedelta) -> str:
    """Return a length of time without seconds, which are no help here."""
    minutes = int(left.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004
