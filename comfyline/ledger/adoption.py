"""What is stored already and this ledger does not know: written down as it was told elsewhere."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from comfyline.account import Account
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger import writing
from comfyline.ledger.reading import belongs_to
from comfyline.ledger.records import Evidence, pack
from comfyline.ledger.stored import record_outputs
from comfyline.ledger.tables import attempts

UNKNOWN_ORIGIN = "unknown-origin"
"""The kind of error with which a job is in doubt whose output does not say whose it is."""

_STEPS = (
    JobState.PLANNED,
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.COMPLETED,
    JobState.PERSISTED,
)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job whose outputs lie whole under their names, as their sidecars tell of it."""

    checked: CheckedJob
    request_id: str
    number: int
    cost_usd: float | None
    reached: Mapping[JobState, datetime]
    outputs: tuple[StoredOutput, ...]


def adopt_stored(connection: Connection, found: StoredJob, account: Account, now: datetime) -> bool:
    """Write down that a job is stored; whether that was new.

    An attempt that is still to be collected ends so, and one in doubt because of its origin.
    """
    column = attempts.c
    this = select(column.id, column.state).where(column.request_id == found.request_id)
    row = connection.execute(this.where(belongs_to(account)).limit(1)).one_or_none()
    asked = select(column.id).where(
        column.key == found.checked.key,
        column.state == JobState.IN_DOUBT,
        column.error_kind == UNKNOWN_ORIGIN,
        belongs_to(account),
    )
    doubt = connection.execute(asked.limit(1)).scalar_one_or_none()
    at = _times(found.reached, now)
    if row is None and doubt is None:
        attempt_id = writing.insert_attempt(
            connection,
            pack(found.checked),
            account,
            at,
            now,
            run_id="sidecar",
            number=found.number,
            request_id=found.request_id,
            cost_usd=found.cost_usd,
            claimed_at=at[JobState.SUBMITTING],
            submitted_at=at[JobState.SUBMITTED],
        )
        record_outputs(connection, attempt_id, found.outputs)
        return True
    attempt_id = row.id if row else doubt
    state = JobState(row.state) if row else JobState.IN_DOUBT
    if row is None:
        times = {
            "claimed_at": at[JobState.SUBMITTING],
            "submitted_at": at[JobState.SUBMITTED],
        }
        known = update(attempts).where(column.id == attempt_id).values(**times)
        connection.execute(known)
        writing.accept(connection, attempt_id, found.request_id, now)
        state = JobState.SUBMITTED
    if state is not JobState.COMPLETED and JobState.COMPLETED not in ALLOWED[state]:
        return False
    cost = {} if found.cost_usd is None else {"cost_usd": found.cost_usd}
    record_outputs(connection, attempt_id, found.outputs)
    writing.move(connection, attempt_id, JobState.COMPLETED, now, **cost)
    writing.move(connection, attempt_id, JobState.PERSISTED, now)
    return True


def ask_whose(
    connection: Connection, checked: CheckedJob, uri: str, account: Account, now: datetime
) -> bool:
    """Put a job in doubt whose output at `uri` does not say whose it is; whether that was new."""
    if writing.latest(connection, checked.key, account) is not None:
        return False
    said = f"{uri} was made for this job by an older version, which did not write down at whose "
    said += "expense"
    values: dict[str, Any] = {"error_kind": UNKNOWN_ORIGIN, "error_message": said}
    steps = dict.fromkeys((JobState.PLANNED, JobState.SUBMITTING, JobState.IN_DOUBT), now)
    writing.insert_attempt(
        connection,
        pack(checked),
        account,
        steps,
        now,
        run_id="sidecar",
        evidence=asdict(Evidence(reason=said)),
        **values,
    )
    return True


def _times(told: Mapping[JobState, datetime], now: datetime) -> dict[JobState, datetime]:
    """A time for every step, none before that of the one before."""
    found: dict[JobState, datetime] = {}
    last = min(told.values(), default=now)
    for state in _STEPS:
        last = max(last, told.get(state, last))
        found[state] = last
    return found
