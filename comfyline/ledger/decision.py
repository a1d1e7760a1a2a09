"""What to do about a job, from what the ledger knows of it. Pure; read it before the rest.

    nothing known, or an attempt that cost nothing    → SUBMIT a new attempt
    planned (the POST is known not to have left)      → SUBMIT the same attempt
    failed, because it was in doubt and did not leave → SUBMIT a new attempt
    submitting, by somebody whose lease still runs    → WAIT for them
    submitted … completed                             → RESUME: it is paid for
    persisted, or expired after it was stored         → REUSE, where its files are
    persisted, but its files were taken over          → RESUME: it is paid for, store it again
    in doubt, failed but charged, given up            → BLOCKED: only a person may decide
    expired                                           → BLOCKED; RESUME while its 7 days last: a
                                                        single answer of RunComfy's ends nothing
    rejected: it came, and is not what was asked for  → SUBMIT as often as `again` allows, then
                                                        BLOCKED, whatever is known of its cost
    failed or cancelled in this very try of the run   → BLOCKED: a run asks once, and once more
                                                        when it is retried

`refresh` turns what has ended into SUBMIT, but never what is in doubt or still under way: request
twice for the same thing at once is how people pay twice.
"""

from datetime import datetime
from enum import Enum, auto

from comfyline.errors import GivenUp, Rejected
from comfyline.job import JobState
from comfyline.ledger.attempts import KEPT, NOT_SENT, AnyAttempt

LEASE_SECONDS = 60
"""How long a claim to submit is believed; longer than the POST's own time limit."""


class Decision(Enum):
    """What a run does next about a job."""

    SUBMIT = auto()
    WAIT = auto()
    RESUME = auto()
    REUSE = auto()
    BLOCKED = auto()


def decide(  # noqa: PLR0911, PLR0912  # a table
    attempt: AnyAttempt | None,
    *,
    refresh: bool,
    run_id: str,
    now: datetime,
    began: datetime | None = None,
    again: int = 0,
) -> Decision:
    """Decide what to do next about a job whose latest attempt is `attempt`.

    `began` is when this try of the run began, for a run may be retried under its id; None counts
    all that the run has done as done in this try. `again` is how many more attempts the job allows
    for when what came was rejected.
    """
    if attempt is None:
        return Decision.SUBMIT
    # A run that asked for a refresh does not refresh what it has itself made.
    anew = refresh and attempt.run_id != run_id
    match attempt.state:
        case JobState.PLANNED:
            return Decision.SUBMIT
        case JobState.SUBMITTING:
            held = attempt.lease_until is not None and attempt.lease_until > now
            return Decision.WAIT if held else Decision.BLOCKED
        case JobState.SUBMITTED | JobState.IN_QUEUE | JobState.IN_PROGRESS | JobState.COMPLETED:
            return Decision.RESUME
        case JobState.PERSISTED:
            if anew:
                return Decision.SUBMIT
            # Another job's output lies where its own did: what was paid for is brought back.
            return Decision.REUSE if attempt.outputs else Decision.RESUME
        case JobState.IN_DOUBT:
            return Decision.BLOCKED
        case JobState.EXPIRED:
            if anew:
                return Decision.SUBMIT
            if attempt.outputs:
                return Decision.REUSE
            keeps = attempt.submitted_at is not None and now < attempt.submitted_at + KEPT
            return Decision.RESUME if keeps else Decision.BLOCKED
        case JobState.FAILED if attempt.error_kind == GivenUp.kind:
            return Decision.SUBMIT if anew else Decision.BLOCKED
        case JobState.FAILED if attempt.error_kind == NOT_SENT:
            return Decision.SUBMIT
        case JobState.FAILED if attempt.error_kind == Rejected.kind:
            # Paid for, whether RunComfy said how much or not.
            left = again - max(1, attempt.rejections)
            return Decision.SUBMIT if anew or left >= 0 else Decision.BLOCKED
        case JobState.FAILED | JobState.CANCELLED:
            if attempt.run_id == run_id and (began is None or attempt.updated_at >= began):
                return Decision.BLOCKED
            return Decision.BLOCKED if attempt.cost_usd and not anew else Decision.SUBMIT
