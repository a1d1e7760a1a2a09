"""What the ledger's evidence says about a submission in doubt. Pure, and never more than advice.

The balance is one number for the whole account, other programs and other products spend from it
too, and a charge may be booked late: so it speaks for something only where the sums fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt

_HOW_FAR = {
    "not_connected": "no connection was made",
    "connected": "a connection was made; nothing was seen to leave",
    "headers_sent": "the headers were sent; the body was not seen to leave whole",
    "body_sent": "the body was sent; the answer never came",
    "answer_begun": "the body was sent and an answer began, but not one that can be understood",
}
_CLOSE_USD = 0.005
_CLOSE_SHARE = 0.1
_UNCHARGED = frozenset({JobState.PLANNED, JobState.SUBMITTING, JobState.IN_DOUBT})
_OVER = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


class SpeaksFor(Enum):
    """What a piece of evidence makes more likely."""

    ACCEPTED = "accepted"
    LOST = "never accepted"


@dataclass(frozen=True, slots=True)
class BalanceChange:
    """The account before the POST and now, in US dollars, beside what others explain of it.

    `least_usd` and `most_usd` bound what the other requests known to the ledger have been charged
    since; `most_usd` is None when nobody can say.
    """

    before_usd: float
    now_usd: float
    least_usd: float
    most_usd: float | None

    @property
    def spent_usd(self) -> float:
        """By how much the balance fell; negative when it was topped up."""
        return self.before_usd - self.now_usd


def how_far_in_words(attempt: Attempt) -> str:
    """Return how far the POST got, as far as anybody knows."""
    if attempt.evidence.how_far is None:
        return (
            "nobody knows: the process that was to send it ended before it wrote anything down, "
            "so it may not even have left"
        )
    return _HOW_FAR.get(attempt.evidence.how_far, attempt.evidence.how_far)


def sent_at(attempt: Attempt) -> datetime:
    """When the POST left, or was about to."""
    return attempt.claimed_at or attempt.created_at


def others_since(doubt: Attempt, attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return the other requests that may have been charged since a POST left, oldest first.

    Those accepted since then, and those that were still under way at that moment.
    """
    since = sent_at(doubt)

    def charged_after(one: Attempt) -> bool:
        if one.id == doubt.id or not (one.request_id and one.submitted_at):
            return False
        ends = [at for state, at in one.reached.items() if state in _OVER]
        still_ran = not ends or min(ends) >= since
        return one.state not in _UNCHARGED and (one.submitted_at >= since or still_ran)

    found = filter(charged_after, attempts)
    return sorted(found, key=lambda one: (one.submitted_at or one.created_at, one.id))


def read_balance(
    doubt: Attempt, others: Iterable[Attempt], now_usd: float | None
) -> BalanceChange | None:
    """Return the balance as evidence; None when it is not known before and after."""
    before = doubt.evidence.balance_before_usd
    if before is None or now_usd is None:
        return None
    least, most = 0.0, 0.0
    is_known = True
    for one in others:
        price = one.cost_usd if one.cost_usd is not None else one.checked.estimate_usd
        is_known &= price is not None
        most += price or 0.0
        # What was under way before may have been charged before, what still is may not be yet.
        if one.submitted_at and one.submitted_at >= sent_at(doubt):
            least += one.cost_usd or 0.0
    return BalanceChange(before, now_usd, least, most if is_known else None)


def speaks_for(balance: BalanceChange, estimate_usd: float | None) -> SpeaksFor | None:
    """Return what the balance makes more likely; None where it fits both, or neither."""
    if balance.most_usd is None or balance.most_usd - balance.least_usd > _CLOSE_USD:
        return None
    left = balance.spent_usd - balance.most_usd
    if abs(left) <= _CLOSE_USD and (estimate_usd is None or estimate_usd > 2 * _CLOSE_USD):
        return SpeaksFor.LOST
    if estimate_usd and abs(left - estimate_usd) <= max(_CLOSE_USD, _CLOSE_SHARE * estimate_usd):
        return SpeaksFor.ACCEPTED
    return None
