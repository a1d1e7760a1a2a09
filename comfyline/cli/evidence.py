"""The facts about a submission in doubt, each as a line for a person."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from comfyline.ledger.attempts import KEPT, Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import Balance, SpeaksFor, how_far_in_words, sent_at, speaks_for
from comfyline.operations.resolve import Doubt
from comfyline.report.format import count, one_line, span, usd

_LISTED = 10
"""How many of the other requests are named."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact; `suggests` is what it makes more likely, where it makes anything so."""

    name: str
    text: str
    suggests: SpeaksFor | None = None


def facts(doubt: Doubt, now: datetime) -> list[Fact]:
    """List all facts, in the order in which a person asks for them; `now` by the ledger's clock."""
    return list(_facts(doubt, now))


def _facts(doubt: Doubt, now: datetime) -> Iterator[Fact]:
    attempt = doubt.attempt
    checked, left = attempt.checked, sent_at(attempt)
    yield Fact("job", f"{short(checked.key)} of {checked.job.pipeline}, for {checked.job.model_id}")
    yield Fact("price", _price(checked.estimate_usd, "estimated "))
    ago = span((now - left).total_seconds())
    yield Fact("sent", f"{left:%Y-%m-%d %H:%M:%S} UTC, {ago} ago")
    yield Fact("progress", how_far_in_words(attempt))
    if reason := attempt.evidence.reason or attempt.error_message:
        yield Fact("reason", one_line(reason))
    yield _balance(doubt)
    yield from _others(doubt.others)
    end = left + KEPT
    over = "; it may be deleted by now" if end < now else ""
    yield Fact("kept", f"if accepted, RunComfy keeps it until {end:%Y-%m-%d %H:%M} UTC{over}")


def _balance(doubt: Doubt) -> Fact:
    before, now_usd = doubt.attempt.evidence.balance_before_usd, doubt.balance_now_usd
    if doubt.balance is None:
        known = [f"{usd(before)} before"] * (before is not None)
        known += [f"{usd(now_usd)} now"] * (now_usd is not None)
        text = f"{known[0]}; the rest is unknown" if known else "unknown (`runcomfy.balance_url`)"
        return Fact("balance", text)
    estimate = doubt.attempt.checked.estimate_usd
    text = f"{usd(doubt.balance.before_usd)} before, {usd(doubt.balance.now_usd)} now: "
    return Fact(
        "balance", text + _difference(doubt.balance, estimate), speaks_for(doubt.balance, estimate)
    )


def _difference(balance: Balance, estimate_usd: float | None) -> str:
    spent, most, least = balance.spent_usd, balance.most_usd, balance.least_usd
    if spent < 0:
        return f"{usd(-spent)} more, so it was topped up and proves nothing"
    if most is None:
        return f"{usd(spent)} less; what the requests below cost is unknown"
    wanted = "" if estimate_usd is None else f"; this job would cost {usd(estimate_usd)}"
    if usd(most) != usd(least):
        return f"{usd(spent)} less; the requests below explain {usd(least)} to {usd(most)}{wanted}"
    # Rounded, or the noise of binary fractions would be shown as money.
    rest = round(spent - most, 4)
    left = f"-{usd(-rest)}" if rest < 0 else usd(abs(rest))
    return f"{usd(spent)} less; the requests below explain {usd(most)}, {left} remains{wanted}"


def _others(others: tuple[Attempt, ...]) -> Iterator[Fact]:
    yield Fact("others", f"{count(len(others), 'other request')} may have been charged since")
    for one in others[:_LISTED]:
        known = one.cost_usd is not None
        price = _price(one.cost_usd) if known else _price(one.checked.estimate_usd, "estimated ")
        yield Fact("", f"{short(one.checked.key)} {one.checked.job.label}: {one.state}, {price}")
    if len(others) > _LISTED:
        yield Fact("", f"and {len(others) - _LISTED:,} more")


def _price(amount: float | None, before: str = "") -> str:
    return "unknown" if amount is None else f"{before}{usd(amount)}"
