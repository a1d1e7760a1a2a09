"""What to do about a job, from what the ledger knows of it. Pure; read it before the rest.

    nothing known, or an attempt that cost nothing    → SUBMIT a new attempt
    planned (the POST is known not to have left)      → SUBMIT the same attempt
    submitting, by somebody whose lease still runs    → WAIT for them
    submitted … completed                             → RESUME: it is paid for
    persisted                                         → REUSE
    persisted, but its files were taken over          → RESUME: it is paid for, store it again
    in doubt, expired, failed but charged             → BLOCKED: only a person may decide

`refresh` turns what has ended into SUBMIT, but never what is in doubt or still under way: asking
twice for the same thing at once is how people pay twice.
"""

from datetime import datetime
from enum import Enum, auto

from comfyline.job import JobState
from comfyline.ledger.records import Attempt

LEASE_SECONDS = 60
"""How long a claim to submit is believed; longer than the POST's own time limit."""


class Decision(Enum):
    """What a run does next about a job."""

    SUBMIT = auto()
    WAIT = auto()
    RESUME = auto()
    REUSE = auto()
    BLOCKED = auto()


def decide(attempt: Attempt | None, *, refresh: bool, run_id: str, now: datetime) -> Decision:  # noqa: PLR0911  # a table
    """The next thing to do about a job whose latest attempt is `attempt`."""
    if attempt is None:
        return Decision.SUBMIT
    # A run that asked for a refresh does not refresh what it has itself made.
    again = refresh and attempt.run_id != run_id
    match attempt.state:
        case JobState.PLANNED:
            return Decision.SUBMIT
        case JobState.SUBMITTING:
            held = attempt.lease_until is not None and attempt.lease_until > now
            return Decision.WAIT if held else Decision.BLOCKED
        case JobState.SUBMITTED | JobState.IN_QUEUE | JobState.IN_PROGRESS | JobState.COMPLETED:
            return Decision.RESUME
        case JobState.PERSISTED:
            if again:
                return Decision.SUBMIT
            # Another job's output lies where its own did: what was paid for is brought back.
            return Decision.REUSE if attempt.outputs else Decision.RESUME
        case JobState.IN_DOUBT:
            return Decision.BLOCKED
        case JobState.EXPIRED:
            return Decision.SUBMIT if again else Decision.BLOCKED
        case JobState.FAILED | JobState.CANCELLED:
            if attempt.run_id == run_id:
                return Decision.BLOCKED
            return Decision.BLOCKED if attempt.cost_usd and not again else Decision.SUBMIT
