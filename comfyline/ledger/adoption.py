"""What is stored already and this ledger does not know: written down as it was told elsewhere."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from comfyline.config.account import Account
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger import writing
from comfyline.ledger.reading import belongs_to
from comfyline.ledger.records import UNKNOWN_ORIGIN, Evidence, pack
from comfyline.ledger.stored import record_outputs
from comfyline.ledger.tables import attempts

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
    at = _times(found.reached, now)
    when = {"claimed_at": at[JobState.SUBMITTING], "submitted_at": at[JobState.SUBMITTED]}
    cost: dict[str, Any] = {} if found.cost_usd is None else {"cost_usd": found.cost_usd}
    row = _waiting(connection, found, account)
    if row is None:
        packed, number = pack(found.checked), found.number
        told = {"request_id": found.request_id, **when, **cost}
        attempt_id = writing.insert_attempt(
            connection, packed, account, at, now, run_id="sidecar", number=number, **told
        )
        record_outputs(connection, attempt_id, found.outputs)
        return True
    state = JobState(row.state)
    if state is JobState.IN_DOUBT:
        connection.execute(update(attempts).where(attempts.c.id == row.id).values(when))
        writing.accept(connection, row.id, found.request_id, now)
        state = JobState.SUBMITTED
    if state is not JobState.COMPLETED and JobState.COMPLETED not in ALLOWED[state]:
        return False
    record_outputs(connection, row.id, found.outputs)
    writing.move(connection, row.id, JobState.COMPLETED, now, **cost)
    writing.move(connection, row.id, JobState.PERSISTED, now)
    return True


def _waiting(connection: Connection, found: StoredJob, account: Account) -> Row[Any] | None:
    """The attempt of this very request, or the one that a person was asked about."""
    column = attempts.c
    own = select(column.id, column.state).where(belongs_to(account))
    asked = own.where(
        column.key == found.checked.key,
        column.state == JobState.IN_DOUBT,
        column.error_kind == UNKNOWN_ORIGIN,
    )
    of_request = own.where(column.request_id == found.request_id)
    row = connection.execute(of_request.limit(1)).one_or_none()
    return row or connection.execute(asked.limit(1)).one_or_none()


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
