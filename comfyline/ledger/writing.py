"""Every write to an attempt: compare-and-set on its state, checked against `ALLOWED`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, case, delete, func, insert, or_, select, update

from comfyline.errors import ComfylineError
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.reading import UNFINISHED, latest_attempts
from comfyline.ledger.records import Attempt, pack
from comfyline.ledger.tables import attempts, jobs, outputs, transitions


class StateConflict(ComfylineError):
    """Another process moved the attempt on in between, or the step is not one of `ALLOWED`."""

    kind = "state-conflict"


_LOOK = "Something else has moved it on meanwhile: `comfyline jobs` shows where it stands."


def open_attempt(
    connection: Connection, checked: CheckedJob, run_id: str, now: datetime
) -> tuple[int, int]:
    """A row in `planned` to submit: the one that never left, else a new one. Its id and number."""
    packed = pack(checked)
    asked = {
        "run_id": run_id,
        "pipeline": packed["job"]["pipeline"],
        "item": packed["job"]["item"],
        "step": packed["job"]["step"],
        "request": packed,
        "estimate_usd": packed["estimate_usd"],
    }
    of_key = select(attempts.c.id, attempts.c.number, attempts.c.state).where(
        attempts.c.key == checked.key
    )
    newest = connection.execute(of_key.order_by(attempts.c.number.desc()).limit(1)).one_or_none()
    if newest is not None and newest.state == JobState.PLANNED:
        connection.execute(update(attempts).where(attempts.c.id == newest.id).values(**asked))
        return newest.id, newest.number
    if newest is None:
        values = {"key": checked.key, "model_id": checked.job.model_id, "created_at": now}
        connection.execute(insert(jobs).values(values))
    number = newest.number + 1 if newest else 1
    row = connection.execute(
        insert(attempts).values(
            key=checked.key,
            number=number,
            state=JobState.PLANNED,
            created_at=now,
            updated_at=now,
            **asked,
        )
    )
    attempt_id = int(row.inserted_primary_key[0]) if row.inserted_primary_key else 0
    _note(connection, attempt_id, JobState.PLANNED, now)
    return attempt_id, number


def has_submitted(connection: Connection, key: str, run_id: str) -> bool:
    """Whether a run has sent a job of this key already, whoever came after it."""
    query = select(func.count()).where(
        attempts.c.key == key,
        attempts.c.run_id == run_id,
        attempts.c.state != JobState.PLANNED,
    )
    return connection.execute(query).scalar_one() > 0


def move(
    connection: Connection,
    attempt_id: int,
    to: JobState,
    now: datetime,
    *,
    unless: frozenset[JobState] = frozenset(),
    **values: Any,
) -> None:
    """Moves one attempt to another state. The same state again only refreshes `values`.

    An attempt that stands in one of `unless` keeps its state and takes the values. Raises
    `StateConflict` when the step is not allowed from where the attempt stands.
    """
    row = connection.execute(
        select(attempts.c.state).where(attempts.c.id == attempt_id).with_for_update()
    ).one()
    current = JobState(row.state)
    to = current if current in unless else to
    if current is to and not values:
        return
    if current is not to and to not in ALLOWED[current]:
        raise StateConflict(f"Attempt {attempt_id} cannot go from {current} to {to}", hint=_LOOK)
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id)
        .values(state=to, updated_at=now, **values)
    )
    if current is not to:
        _note(connection, attempt_id, to, now)


def lease(
    connection: Connection, attempt_id: int, owner: str, now: datetime, slot_seconds: float
) -> None:
    """Commits the intent to submit: from here on only this owner may POST."""
    move(
        connection,
        attempt_id,
        JobState.SUBMITTING,
        now,
        owner=owner,
        lease_until=now + timedelta(seconds=LEASE_SECONDS),
        slot_until=now + timedelta(seconds=slot_seconds),
        error_kind=None,
        error_message=None,
    )


def accept(connection: Connection, attempt_id: int, request_id: str, now: datetime) -> datetime:
    """Writes a request id down, also after the lease is over. Returns when it was accepted.

    The same id again changes nothing; another one is refused, because the first was paid for.
    """
    row = connection.execute(
        select(attempts.c.request_id, attempts.c.submitted_at)
        .where(attempts.c.id == attempt_id)
        .with_for_update()
    ).one()
    if row.request_id is not None and row.request_id != request_id:
        raise StateConflict(f"Attempt {attempt_id} is request {row.request_id} already", hint=_LOOK)
    if row.request_id is not None and row.submitted_at is not None:
        known: datetime = row.submitted_at
        return known
    values = {"request_id": request_id, "submitted_at": now, **_let_go()}
    move(connection, attempt_id, JobState.SUBMITTED, now, **values)
    return now


def give_back(connection: Connection, attempt_id: int, now: datetime) -> None:
    """The claim ends without a request: `planned` again, for whoever comes next.

    When the lease ran out first (a laptop that slept), the doubt ends here instead, in `failed`.
    """
    row = connection.execute(
        select(attempts.c.state).where(attempts.c.id == attempt_id).with_for_update()
    ).one()
    if row.state == JobState.IN_DOUBT:
        reason = {"error_kind": "not-sent", "error_message": "RunComfy never accepted it."}
        move(connection, attempt_id, JobState.FAILED, now, **{**_let_go(), **reason})
    else:
        move(connection, attempt_id, JobState.PLANNED, now, **_let_go())


def end_dead_leases(connection: Connection, now: datetime) -> int:
    """Puts in doubt what a dead process was submitting. Returns how many those are."""
    dead = (
        select(attempts.c.id)
        .where(attempts.c.state == JobState.SUBMITTING, attempts.c.lease_until <= now)
        # What somebody is writing down at this moment is not dead.
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(dead).scalars())
    reason = "The process that submitted it ended before RunComfy's answer was written down."
    values = {**_let_go(), "error_kind": "in-doubt", "error_message": reason}
    for attempt_id in ids:
        move(connection, attempt_id, JobState.IN_DOUBT, now, **values)
    return len(ids)


def in_flight(connection: Connection, now: datetime) -> int:
    """How many requests all processes have at RunComfy, or are sending there."""
    waiting = [state for state in UNFINISHED if state is not JobState.COMPLETED]
    holds_slot = and_(attempts.c.state.in_(waiting), attempts.c.slot_until > now)
    query = select(func.count()).where(or_(attempts.c.state == JobState.SUBMITTING, holds_slot))
    return connection.execute(query).scalar_one()


def reserved_usd(connection: Connection, run_id: str) -> float:
    """What a run has spent or reserved: the real cost where known, else the estimate.

    What failed or was cancelled counts with what it is known to have cost, and reserves nothing.
    """
    committed = [state for state in JobState if state is not JobState.PLANNED]
    over = attempts.c.state.in_([JobState.FAILED, JobState.CANCELLED])
    estimate = case((over, 0.0), else_=func.coalesce(attempts.c.estimate_usd, 0.0))
    query = select(func.sum(func.coalesce(attempts.c.cost_usd, estimate))).where(
        attempts.c.run_id == run_id, attempts.c.state.in_(committed)
    )
    return float(connection.execute(query).scalar_one() or 0.0)


def record_outputs(connection: Connection, attempt_id: int, stored: Sequence[StoredOutput]) -> None:
    """Remembers where outputs lie; the same place again is no second one.

    What another attempt had at one of these places is not there any more, and its record goes.
    An attempt that thereby lost an output keeps none of its records: it has to be stored anew.
    """
    here = outputs.c.uri.in_([output.uri for output in stored])
    others = set(connection.execute(select(outputs.c.attempt_id).where(here)).scalars())
    others.discard(attempt_id)
    before = {other: _indices(connection, other) for other in others}
    connection.execute(delete(outputs).where(here))
    for other, indices in before.items():
        if _indices(connection, other) < indices:
            connection.execute(delete(outputs).where(outputs.c.attempt_id == other))
    for output in stored:
        connection.execute(
            insert(outputs).values(
                attempt_id=attempt_id,
                index=output.index,
                uri=output.uri,
                sha256=output.sha256,
                bytes=output.bytes,
                media_type=output.media_type,
            )
        )


def latest(connection: Connection, key: str) -> Attempt | None:
    """The latest attempt of one key."""
    return latest_attempts(connection, [key]).get(key)


def _indices(connection: Connection, attempt_id: int) -> set[int]:
    query = select(outputs.c.index).where(outputs.c.attempt_id == attempt_id)
    return set(connection.execute(query).scalars())


def _let_go() -> dict[str, Any]:
    """What an attempt is left with that nobody is submitting: no owner, no error of before."""
    return {"owner": None, "lease_until": None, "error_kind": None, "error_message": None}


def _note(connection: Connection, attempt_id: int, state: JobState, now: datetime) -> None:
    values = {"attempt_id": attempt_id, "state": state, "at": now}
    connection.execute(insert(transitions).values(values))
