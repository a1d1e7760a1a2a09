"""Every write to an attempt: compare-and-set on its state, checked against `ALLOWED`."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from comfyline.errors import ComfylineError
from comfyline.job import ALLOWED, CheckedJob, JobState, StoredOutput
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.reading import UNFINISHED, latest_attempts
from comfyline.ledger.records import Attempt, pack
from comfyline.ledger.tables import attempts, jobs, outputs, transitions


class StateConflict(ComfylineError):
    """Another process moved the attempt on in between, or the step is not one of `ALLOWED`."""

    kind = "state-conflict"


def open_attempt(
    connection: Connection, checked: CheckedJob, run_id: str, latest: Attempt | None, now: datetime
) -> int:
    """A row in `planned` to submit: the latest when it never left, else a new one."""
    job = checked.job
    if latest is not None and latest.state is JobState.PLANNED:
        where = attempts.c.id == latest.id
        connection.execute(
            update(attempts).where(where).values(run_id=run_id, request=pack(checked))
        )
        return latest.id
    if latest is None:
        values = {"key": checked.key, "model_id": job.model_id, "created_at": now}
        connection.execute(insert(jobs).values(values))
    row = connection.execute(
        insert(attempts).values(
            key=checked.key,
            number=latest.number + 1 if latest else 1,
            state=JobState.PLANNED,
            pipeline=job.pipeline,
            item=job.item,
            step=job.step,
            request=pack(checked),
            run_id=run_id,
            estimate_usd=checked.estimate_usd,
            created_at=now,
            updated_at=now,
        )
    )
    attempt_id = int(row.inserted_primary_key[0]) if row.inserted_primary_key else 0
    _note(connection, attempt_id, JobState.PLANNED, now)
    return attempt_id


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
    if current is not to and to not in ALLOWED[current]:
        raise StateConflict(f"Attempt {attempt_id} cannot go from {current} to {to}")
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id)
        .values(state=to, updated_at=now, **values)
    )
    if current is not to:
        _note(connection, attempt_id, to, now)


def lease(connection: Connection, attempt_id: int, owner: str, now: datetime) -> None:
    """Commits the intent to submit: from here on only this owner may POST."""
    until = now + timedelta(seconds=LEASE_SECONDS)
    move(connection, attempt_id, JobState.SUBMITTING, now, owner=owner, lease_until=until)


def end_dead_leases(connection: Connection, now: datetime) -> int:
    """Puts in doubt what a dead process was submitting. Returns how many those are."""
    dead = connection.execute(
        select(attempts.c.id).where(
            attempts.c.state == JobState.SUBMITTING, attempts.c.lease_until <= now
        )
    ).scalars()
    ids = list(dead)
    for attempt_id in ids:
        move(
            connection,
            attempt_id,
            JobState.IN_DOUBT,
            now,
            owner=None,
            error_kind="in-doubt",
            error_message="The process that submitted it ended before RunComfy's answer was "
            "written down.",
        )
    return len(ids)


def in_flight(connection: Connection, since: datetime) -> int:
    """How many requests all processes have at RunComfy; abandoned ones count until `since`."""
    at_work = [state for state in UNFINISHED if state is not JobState.COMPLETED]
    query = select(func.count()).where(attempts.c.state.in_(at_work), attempts.c.updated_at > since)
    return connection.execute(query).scalar_one()


def reserved_usd(connection: Connection, run_id: str) -> float:
    """What a run has spent or reserved: the real cost where known, else the estimate."""
    committed = [state for state in JobState if state is not JobState.PLANNED]
    query = select(
        func.coalesce(
            func.sum(func.coalesce(attempts.c.cost_usd, attempts.c.estimate_usd, 0.0)), 0.0
        )
    ).where(attempts.c.run_id == run_id, attempts.c.state.in_(committed))
    return float(connection.execute(query).scalar_one())


def record_outputs(connection: Connection, attempt_id: int, stored: Iterable[StoredOutput]) -> None:
    """Remembers where outputs lie; the same place again is no second one."""
    known = set(
        connection.execute(
            select(outputs.c.index, outputs.c.uri).where(outputs.c.attempt_id == attempt_id)
        ).tuples()
    )
    for output in stored:
        if (output.index, output.uri) in known:
            continue
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


def _note(connection: Connection, attempt_id: int, state: JobState, now: datetime) -> None:
    values = {"attempt_id": attempt_id, "state": state, "at": now}
    connection.execute(insert(transitions).values(values))
