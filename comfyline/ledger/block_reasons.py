"""Why the ledger lets a job not be submitted, said for the person who can do something about it."""

from collections.abc import Iterator, Mapping

from comfyline.config.account import Account, command
from comfyline.errors import (
    Cancelled,
    Expired,
    GenerationFailed,
    GivenUp,
    InDoubt,
    Interrupted,
    JobError,
    OverBudget,
    Rejected,
)
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.attempts import UNKNOWN_ORIGIN, Attempt
from comfyline.ledger.claims import BudgetExceeded

_SHORT_KEY = 12


def short(key: str) -> str:
    """As much of a job key as people type."""
    return key[:_SHORT_KEY]


def elsewhere_in_words(unfinished: Mapping[Account, int]) -> Iterator[str]:
    """Say what other accounts have left unfinished, and with which profile it is reached."""
    for account, number in unfinished.items():
        left = f"{number:,} unfinished job{'s' * (number != 1)} of {account} left untouched"
        yield f"{left}: {account.command('reconcile')} collects what is paid for there"


def in_doubt(key: str, reason: str) -> InDoubt:
    """Report a POST whose outcome nobody knows."""
    return InDoubt(
        f"The POST may have been accepted, but its answer never arrived ({reason})",
        hint="It is never sent again automatically. Look for it at RunComfy, then "
        f"{command(f'resolve {short(key)} --request-id ID')}, or `--lost` if it is not there.",
    )


def blocked(attempt: Attempt) -> JobError:  # noqa: PLR0911  # a table
    """Say why an attempt that ended is not asked for again by itself."""
    key, request_id = attempt.checked.key, attempt.request_id
    said = attempt.error_message or attempt.state
    match attempt.state:
        case JobState.IN_DOUBT if attempt.error_kind == UNKNOWN_ORIGIN:
            resolve = f"resolve {short(key)}"
            return InDoubt(
                said,
                hint=f"{attempt.command(f'{resolve} --adopt')} takes it as this profile's and pays "
                f"nothing; {attempt.command(f'{resolve} --lost')} makes it again, and pays for it.",
            )
        case JobState.IN_DOUBT | JobState.SUBMITTING:
            return in_doubt(key, f"since {attempt.updated_at:%Y-%m-%d %H:%M} UTC")
        case JobState.EXPIRED:
            return Expired(
                f"It was paid for, but its outputs are missing: {said}",
                hint="`--refresh` makes it again, and pays again.",
                request_id=request_id,
            )
        case JobState.CANCELLED:
            hint = "Run again to submit it anew."
            if attempt.cost_usd:
                said += f" It was charged ${attempt.cost_usd:g} all the same."
                hint = "`--refresh` submits it anew, and may pay again."
            return Cancelled(said, hint=hint, request_id=request_id)
        case _ if attempt.error_kind == GivenUp.kind:
            return GivenUp(said, request_id=request_id)
        case _ if attempt.error_kind == Rejected.kind:
            cost = f"; it cost ${attempt.cost_usd:g}" if attempt.cost_usd else ""
            return Rejected(
                f"An earlier attempt was rejected{cost}: {said}",
                hint="`--refresh` or another variant makes a new one, and pays again.",
                request_id=request_id,
            )
        case _:
            charged = f" and was charged ${attempt.cost_usd:g}" if attempt.cost_usd else ""
            return GenerationFailed(
                f"An earlier attempt failed{charged}: {said}",
                hint="`--refresh` asks again, and may pay again." if charged else "Run again.",
                request_id=request_id,
            )


def not_started(reason: str) -> Interrupted:
    """Report a job that its run did not come to."""
    return Interrupted(
        f"It was not submitted, because the run was stopped: {reason}",
        hint="Run again to make it.",
    )


def over_budget(checked: CheckedJob, exceeded: BudgetExceeded) -> OverBudget:
    """Report a job that does not fit under a cost limit."""
    limit = f"${exceeded.limit_usd:g}"
    if exceeded.limit == "price":
        return OverBudget(
            f"{checked.job.model_id} has no known price, but there is a limit of {limit}",
            hint="--allow-unknown-cost runs it anyway, `limits.cost_ceilings` says what to "
            "reserve for it.",
        )
    where, raised = {
        "run": ("this run", "`limits.max_cost_usd` or --max-cost"),
        "day": ("this pipeline today (UTC)", "`limits.max_cost_usd_per_day`"),
    }[exceeded.limit]
    cost = (
        "" if checked.estimate_usd is None else f"It would cost about ${checked.estimate_usd:.2f}; "
    )
    return OverBudget(
        f"{cost}${exceeded.reserved_usd:.2f} of the limit of {limit} for {where} is spent or "
        "reserved",
        hint=f"Raise {raised}, then run again.",
    )
