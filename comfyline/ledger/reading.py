"""Reading attempts: rows → `Attempt` records, in few queries however many keys are asked for."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    Text,
    case,
    cast,
    func,
    select,
)

from comfyline.errors import Rejected
from comfyline.job import JobState, StoredOutput
from comfyline.ledger.records import REFRESH, Attempt, Evidence, Glance, unpack
from comfyline.ledger.tables import attempts, outputs, transitions

_PER_QUERY = 500
"""Keys in one IN list: below every database's limit on parameters."""

UNFINISHED = (
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.IN_QUEUE,
    JobState.IN_PROGRESS,
    JobState.COMPLETED,
)
"""States in which money is, or may be, at stake and a machine can still do something."""


def latest_attempts(connection: Connection, keys: Sequence[str]) -> dict[str, Attempt]:
    """The latest attempt of each key that the ledger knows.

    One that never left does not count beside an earlier one: a refresh that came to nothing must
    not hide what is stored already, or in doubt.
    """
    found: dict[str, Attempt] = {}
    for newest in _newest(keys):
        query = select(attempts).join(newest, _is_newest(newest))
        found |= {attempt.checked.key: attempt for attempt in read_attempts(connection, query)}
    return found


def latest_glances(connection: Connection, keys: Sequence[str]) -> dict[str, Glance]:
    """The same, with no more of each attempt than decides about its job."""
    column = attempts.c
    found: dict[str, Glance] = {}
    for newest in _newest(keys):
        # As text: most are never looked into.
        packed = cast(column.request, Text).label("packed")
        parts = (column.id, column.key, column.state, column.run_id, column.pipeline)
        more = (column.lease_until, column.request_id, column.cost_usd, column.error_kind, packed)
        query = select(*parts, *more).join(newest, _is_newest(newest))
        rows = connection.execute(query).all()
        files, rejected = _files(connection, rows), _rejections(connection, rows)
        for row in rows:
            found[row.key] = Glance(
                state=JobState(row.state),
                run_id=row.run_id,
                pipeline=row.pipeline,
                lease_until=row.lease_until,
                request_id=row.request_id,
                cost_usd=row.cost_usd,
                error_kind=row.error_kind,
                packed=row.packed,
                outputs=tuple(files[row.id]),
                rejections=rejected.get(row.id, 0),
            )
    return found


def _newest(keys: Sequence[str]) -> Iterator[Subquery]:
    """For some keys after the other, the number of the attempt that counts."""
    # What never left and stands alone is number 1; beside others it is the last and counts least.
    counts = case((attempts.c.state == JobState.PLANNED, 1), else_=attempts.c.number)
    for start in range(0, len(keys), _PER_QUERY):
        yield (
            select(attempts.c.key, func.max(counts).label("number"))
            .where(attempts.c.key.in_(keys[start : start + _PER_QUERY]))
            .group_by(attempts.c.key)
            .subquery()
        )


def _is_newest(newest: Subquery) -> ColumnElement[bool]:
    return (attempts.c.key == newest.c.key) & (attempts.c.number == newest.c.number)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which attempts are meant; what is None does not matter.

    `since` and `until` bound the moment at which an attempt was last changed.
    """

    state: JobState | None = None
    pipeline: str | None = None
    run_id: str | None = None
    key_prefix: str | None = None
    request_ids: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


def list_attempts(connection: Connection, selection: Selection) -> list[Attempt]:
    """The attempts that are meant, newest first."""
    column = attempts.c
    query = select(attempts).order_by(column.id.desc())
    if selection.state:
        query = query.where(column.state == selection.state)
    if selection.pipeline:
        query = query.where(column.pipeline == selection.pipeline)
    if selection.run_id:
        query = query.where(column.run_id == selection.run_id)
    if selection.key_prefix:
        query = query.where(column.key.startswith(selection.key_prefix, autoescape=True))
    if selection.request_ids is not None:
        query = query.where(column.request_id.in_(selection.request_ids))
    if selection.since:
        query = query.where(column.updated_at >= selection.since)
    if selection.until:
        query = query.where(column.updated_at < selection.until)
    return read_attempts(connection, query)


def unfinished_attempts(connection: Connection) -> list[Attempt]:
    """What was paid for and is not stored yet, oldest submission first: it expires first."""
    query = (
        select(attempts)
        .where(attempts.c.state.in_(UNFINISHED), attempts.c.request_id.is_not(None))
        .order_by(attempts.c.submitted_at, attempts.c.id)
    )
    return read_attempts(connection, query)


def read_attempts(connection: Connection, query: Select[Any]) -> list[Attempt]:
    """The attempts that a query over `attempts` selects, in its order."""
    rows = connection.execute(query).all()
    files = _files(connection, rows)
    reached: dict[int, dict[JobState, datetime]] = defaultdict(dict)
    for some in _ids(rows):
        steps = select(transitions).where(transitions.c.attempt_id.in_(some))
        for row in connection.execute(steps.order_by(transitions.c.id)):
            reached[row.attempt_id][JobState(row.state)] = row.at
    rejected = _rejections(connection, rows)
    return [
        _attempt(row, tuple(files[row.id]), reached[row.id], rejected.get(row.id, 0))
        for row in rows
    ]


def _files(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, list[StoredOutput]]:
    """The stored outputs of attempts, by their ids."""
    files: dict[int, list[StoredOutput]] = defaultdict(list)
    for some in _ids(rows):
        stored = (
            select(outputs, outputs.c.index.label("number"))
            .where(outputs.c.attempt_id.in_(some))
            .order_by(outputs.c.id)
        )
        for row in connection.execute(stored):
            files[row.attempt_id].append(
                StoredOutput(row.number, row.uri, row.sha256, row.bytes, row.media_type)
            )
    return files


def _ids(rows: Sequence[Row[Any]]) -> Iterator[Sequence[int]]:
    ids = [row.id for row in rows]
    return (ids[start : start + _PER_QUERY] for start in range(0, len(ids), _PER_QUERY))


def _rejections(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, int]:
    """For each rejected attempt, how many were since the last refresh of its job, with itself."""
    keys = sorted({row.key for row in rows if row.error_kind == Rejected.kind})
    column = attempts.c
    found: dict[int, int] = {}
    counts: dict[str, int] = defaultdict(int)
    for start in range(0, len(keys), _PER_QUERY):
        query = (
            select(column.id, column.key, column.error_kind)
            .add_columns(column.request[REFRESH].as_boolean().label(REFRESH))
            .where(column.key.in_(keys[start : start + _PER_QUERY]))
            .order_by(column.key, column.number)
        )
        for row in connection.execute(query):
            if row.refresh:
                counts[row.key] = 0
            if row.error_kind == Rejected.kind:
                counts[row.key] += 1
                found[row.id] = counts[row.key]
    return found


def _attempt(
    row: Row[Any],
    stored: tuple[StoredOutput, ...],
    reached: dict[JobState, datetime],
    rejections: int,
) -> Attempt:
    return Attempt(
        id=row.id,
        number=row.number,
        state=JobState(row.state),
        checked=unpack(row.request),
        run_id=row.run_id,
        owner=row.owner,
        lease_until=row.lease_until,
        request_id=row.request_id,
        reserved_usd=row.reserved_usd,
        cost_usd=row.cost_usd,
        error_kind=row.error_kind,
        error_message=row.error_message,
        evidence=Evidence(**row.evidence or {}),
        created_at=row.created_at,
        claimed_at=row.claimed_at,
        submitted_at=row.submitted_at,
        updated_at=row.updated_at,
        outputs=stored,
        reached=reached,
        rejections=rejections,
    )
