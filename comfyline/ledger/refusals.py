"""Why the ledger lets a job not be submitted, said for the person who can do something about it."""

from comfyline.errors import (
    Cancelled,
    Expired,
    GenerationFailed,
    InDoubt,
    JobError,
    OverBudget,
)
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.records import Attempt

_SHORT_KEY = 12


def short(key: str) -> str:
    """As much of a job key as people type."""
    return key[:_SHORT_KEY]


def in_doubt(key: str, reason: str) -> InDoubt:
    """A POST whose outcome nobody knows."""
    return InDoubt(
        f"The POST may have been accepted, and its answer never arrived ({reason})",
        hint="It is not sent again by itself. Look for it at RunComfy, then `comfyline resolve "
        f"{short(key)} --request-id ID`, or `--lost` when it is not there.",
    )


def blocked(attempt: Attempt) -> JobError:
    """Why an attempt that ended is not asked for again by itself."""
    key, request_id = attempt.checked.key, attempt.request_id
    said = attempt.error_message or attempt.state
    match attempt.state:
        case JobState.IN_DOUBT | JobState.SUBMITTING:
            return in_doubt(key, f"since {attempt.updated_at:%Y-%m-%d %H:%M} UTC")
        case JobState.EXPIRED:
            return Expired(
                f"It was paid for, and its outputs are gone: {said}",
                hint="`--refresh` makes it again, and pays again.",
                request_id=request_id,
            )
        case JobState.CANCELLED:
            hint = "Run again to submit it anew."
            if attempt.cost_usd:
                said += f" It was charged ${attempt.cost_usd:g} all the same."
                hint = "`--refresh` submits it anew, and may pay again."
            return Cancelled(said, hint=hint, request_id=request_id)
        case _:
            charged = f" and was charged ${attempt.cost_usd:g}" if attempt.cost_usd else ""
            return GenerationFailed(
                f"It failed before{charged}: {said}",
                hint="`--refresh` asks again, and may pay again." if charged else "Run again.",
                request_id=request_id,
            )


def over_budget(checked: CheckedJob, limit_usd: float | None, reserved_usd: float) -> OverBudget:
    """A job that does not fit under the run's cost limit."""
    if checked.estimate_usd is None:
        return OverBudget(
            f"{checked.job.model_id} has no known price, and the run is limited to ${limit_usd}",
            hint="An unknown price counts as no price at all: remove the limit to run it anyway.",
        )
    return OverBudget(
        f"It would cost about ${checked.estimate_usd:.2f}; ${reserved_usd:.2f} of the limit of "
        f"${limit_usd} are spent or reserved",
        hint="Raise `limits.max_cost_usd` or --max-cost, then run again.",
    )
