"""Warn of what RunComfy will soon delete although it was paid for, each level louder."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.retention import AtRisk, Urgency, at_risk, kept_until
from comfyline.report.format import count

_NAMED = 20
"""How many are named one by one: the most urgent."""


def warnings(attempts: Iterable[Attempt], now: datetime) -> list[tuple[Urgency, str]]:
    """Warn of each result that has little time left, the most urgent first.

    Empty when nothing is urgent.
    """
    found = at_risk(attempts, now)
    if not found:
        return []
    said = [(one.urgency, sentence(one)) for one in found[:_NAMED]]
    if len(found) > _NAMED:
        said.append((found[_NAMED].urgency, f"and {count(len(found) - _NAMED, 'more job')}"))
    for command in dict.fromkeys(one.attempt.command("reconcile") for one in found):
        them = [one for one in found if one.attempt.command("reconcile") == command]
        it = "it" if len(them) == 1 else "them"
        said.append((them[0].urgency, f"{command} collects {it}: it costs nothing"))
    return said


def sentence(one: AtRisk) -> str:
    """Return how urgent it is, and about what."""
    job = one.attempt.checked.job
    what = (
        f"{short(one.attempt.checked.key)} {job.label} ({job.pipeline}), request "
        f"{one.attempt.request_id}, is paid for and not stored"
    )
    match one.urgency:
        case Urgency.OVER:
            ago = _rough(-one.left)
            return f"7 DAYS ARE OVER since {ago}, RunComfy may have deleted it: {what}"
        case Urgency.LAST_HOURS:
            return f"ONLY {_rough(one.left)} LEFT before RunComfy deletes it: {what}"
        case Urgency.PRESSING:
            return f"LESS THAN 24 h LEFT ({_rough(one.left)}) before RunComfy deletes it: {what}"
        case _:
            return f"less than 48 h left ({_rough(one.left)}) before RunComfy deletes it: {what}"


def described(one: AtRisk) -> dict[str, object]:
    """Describe it for a program."""
    attempt = one.attempt
    end = kept_until(attempt)
    return {
        "job": attempt.checked.key,
        "pipeline": attempt.checked.job.pipeline,
        "item": attempt.checked.job.item,
        **({"profile": attempt.account.profile} if attempt.account else {}),
        "request_id": attempt.request_id,
        "state": attempt.state.value,
        "kept_until": end.isoformat() if end else None,
        "hours_left": round(one.left / timedelta(hours=1), 1),
        "urgency": one.urgency.word,
    }


def _rough(left: timedelta) -> str:
    """Return a length of time without seconds, which are no help here."""
    minutes = int(left.total_seconds() // 60)
    return f"{minutes // 60} h" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004
