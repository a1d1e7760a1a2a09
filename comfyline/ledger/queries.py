"""Reading attempts: rows → `Attempt` records, in few queries however many keys are asked for."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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
    or_,
    select,
    true,
)

from comfyline.config.account import Account
from comfyline.errors import Rejected
from comfyline.job import CheckedJob, JobState, StoredOutput
from comfyline.ledger.attempts import (
    KEPT,
    REFRESH,
    UNREADABLE,
    Attempt,
    AttemptSummary,
    pack,
    read_evidence,
    unpack,
    unpack_row,
)
from comfyline.ledger.tables import attempts, outputs, transitions
from comfyline.run import Provenance

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


def belongs_to(account: Account | None) -> ColumnElement[bool]:
    """Select an account's own attempts, all of them for None.

    What a version before accounts wrote is everybody's until an answer tells whose it is: better
    looked for at the wrong place than paid for twice.
    """
    if account is None:
        return true()
    own = (attempts.c.origin == account.origin) & (attempts.c.account == account.name)
    return or_(own, attempts.c.origin.is_(None))


def latest_attempts(
    connection: Connection, keys: Sequence[str], account: Account | None
) -> dict[str, Attempt]:
    """Return the latest attempt of each key that an account has.

    One that never left does not count beside an earlier one: a refresh that came to nothing must
    not hide what is stored already, or in doubt.
    """
    found: dict[str, Attempt] = {}
    for newest in _newest(keys, account):
        query = select(attempts).join(newest, _is_newest(newest)).where(belongs_to(account))
        found |= {attempt.checked.key: attempt for attempt in read_attempts(connection, query)}
    return found


def attempt_summaries(
    connection: Connection, keys: Sequence[str], account: Account | None
) -> dict[str, AttemptSummary]:
    """Return of the latest attempts no more than decides about their jobs."""
    column = attempts.c
    found: dict[str, AttemptSummary] = {}
    for newest in _newest(keys, account):
        # As text: most are never looked into.
        packed = cast(column.request, Text).label("packed")
        parts = (column.id, column.key, column.state, column.run_id, column.pipeline)
        times = (column.updated_at, column.lease_until, column.submitted_at)
        more = (column.request_id, column.cost_usd, column.error_kind, packed)
        query = (
            select(*parts, *times, *more)
            .join(newest, _is_newest(newest))
            .where(belongs_to(account))
        )
        rows = connection.execute(query).all()
        files, rejected = _files(connection, rows), _rejections(connection, rows, account)
        for row in rows:
            found[row.key] = AttemptSummary(
                state=JobState(row.state),
                run_id=row.run_id,
                pipeline=row.pipeline,
                updated_at=row.updated_at,
                lease_until=row.lease_until,
                submitted_at=row.submitted_at,
                request_id=row.request_id,
                cost_usd=row.cost_usd,
                error_kind=row.error_kind,
                packed=row.packed,
                outputs=tuple(files[row.id]),
                rejections=rejected.get(row.id, 0),
            )
    return found


_MORE_THAN_ANY = 1_000_000
_IN_HAND = frozenset(UNFINISHED) - {JobState.SUBMITTING}
_WEIGHT = case(
    (attempts.c.state == JobState.PLANNED, -attempts.c.number),
    (attempts.c.state.in_(_IN_HAND), _MORE_THAN_ANY + attempts.c.number),
    else_=attempts.c.number,
)
"""Which attempt of a job counts: what is paid for and not stored, else the last that ever left.

There are two of the former where one was taken for lost and found after the next was submitted.
"""


def _newest(keys: Sequence[str], account: Account | None) -> Iterator[Subquery]:
    """Yield queries for the weight of the attempt that counts, for some of the keys at a time."""
    for start in range(0, len(keys), _PER_QUERY):
        yield (
            select(attempts.c.key, func.max(_WEIGHT).label("weight"))
            .where(attempts.c.key.in_(keys[start : start + _PER_QUERY]), belongs_to(account))
            .group_by(attempts.c.key)
            .subquery()
        )


def _is_newest(newest: Subquery) -> ColumnElement[bool]:
    return (attempts.c.key == newest.c.key) & (newest.c.weight == _WEIGHT)


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


def list_attempts(
    connection: Connection, selection: Selection, account: Account | None
) -> list[Attempt]:
    """Return the selected attempts of an account, newest first."""
    column = attempts.c
    query = select(attempts).where(belongs_to(account)).order_by(column.id.desc())
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
    return read_attempts(connection, query, account)


_IS_UNFINISHED = attempts.c.state.in_(UNFINISHED) & attempts.c.request_id.is_not(None)


def unfinished_attempts(
    connection: Connection, account: Account | None, now: datetime
) -> list[Attempt]:
    """Return what was paid for and is not stored yet, oldest submission first: it expires first.

    With what counts as expired although its days are not over: versions before this one ended a
    request by a single answer.
    """
    too_soon = (attempts.c.state == JobState.EXPIRED) & (attempts.c.submitted_at > now - KEPT)
    query = (
        select(attempts)
        .where(_IS_UNFINISHED | too_soon, belongs_to(account))
        .order_by(attempts.c.submitted_at, attempts.c.id)
    )
    return read_attempts(connection, query, account)


def unfinished_elsewhere(connection: Connection, account: Account) -> dict[Account, int]:
    """Return how many unfinished jobs every other account has, each as it was last reached."""
    column = attempts.c
    query = (
        select(column.origin, column.account, column.profile)
        .where((column.state == JobState.IN_DOUBT) | _IS_UNFINISHED, ~belongs_to(account))
        .order_by(column.id)
    )
    found: dict[Account, int] = defaultdict(int)
    named: dict[Account, Account] = {}
    for row in connection.execute(query):
        other = Account(row.origin, row.account, row.profile or "")
        found[other] += 1
        named[other] = other
    return {named[other]: number for other, number in found.items()}


def read_attempts(
    connection: Connection, query: Select[Any], account: Account | None = None
) -> list[Attempt]:
    """Return the attempts that a query over `attempts` selects, in its order.

    Rejections are counted among those of `account`.
    """
    rows = connection.execute(query).all()
    files = _files(connection, rows)
    reached: dict[int, dict[JobState, datetime]] = defaultdict(dict)
    for some in _ids(rows):
        steps = select(transitions).where(transitions.c.attempt_id.in_(some))
        for row in connection.execute(steps.order_by(transitions.c.id)):
            reached[row.attempt_id][JobState(row.state)] = row.at
    rejected = _rejections(connection, rows, account)
    return [
        _attempt(row, tuple(files[row.id]), reached[row.id], rejected.get(row.id, 0))
        for row in rows
    ]


def _files(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, list[StoredOutput]]:
    """Return the stored outputs of attempts, by their ids."""
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


def _rejections(
    connection: Connection, rows: Sequence[Row[Any]], account: Account | None
) -> dict[int, int]:
    """Count for each rejected attempt those since the last refresh of its job, itself included."""
    keys = sorted({row.key for row in rows if row.error_kind == Rejected.kind})
    column = attempts.c
    found: dict[int, int] = {}
    counts: dict[str, int] = defaultdict(int)
    for start in range(0, len(keys), _PER_QUERY):
        query = (
            select(column.id, column.key, column.error_kind, column.request)
            .where(column.key.in_(keys[start : start + _PER_QUERY]), belongs_to(account))
            .order_by(column.key, column.number)
        )
        for row in connection.execute(query):
            if row.request and row.request.get(REFRESH):
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
        checked=unpack_row(
            row.request, key=row.key, pipeline=row.pipeline, item=row.item, step=row.step
        ),
        account=_account(row),
        run_id=row.run_id,
        owner=row.owner,
        lease_until=row.lease_until,
        request_id=row.request_id,
        reserved_usd=row.reserved_usd,
        cost_usd=row.cost_usd,
        error_kind=row.error_kind,
        error_message=row.error_message,
        evidence=read_evidence(row.evidence),
        created_at=row.created_at,
        claimed_at=row.claimed_at,
        submitted_at=row.submitted_at,
        updated_at=row.updated_at,
        outputs=stored,
        reached=reached,
        missing_since=row.missing_since,
        rejections=rejections,
    )


def _account(row: Row[Any]) -> Account | None:
    return Account(row.origin, row.account, row.profile or "") if row.origin else None


_ITEMS_AT_A_TIME = 200

Spot = tuple[str, str, str, str, int | None]
"""Pipeline, item, step, settings as JSON, part."""


def previous_attempts(
    connection: Connection, asked: Sequence[CheckedJob], account: Account | None
) -> list[tuple[CheckedJob, CheckedJob] | None]:
    """Return for each job what was last submitted in its place, and the job in the same form.

    That form is what the ledger keeps: addresses without their queries. Nothing for a place in
    which there was none.
    """
    packed = [pack(one) for one in asked]
    spots = [_spot(one) for one in packed]
    latest: dict[Spot, CheckedJob] = {}
    for pipeline in dict.fromkeys(spot[0] for spot in spots):
        mine = {spot for spot in spots if spot[0] == pipeline}
        items = sorted({item for _, item, *_ in mine})
        for start in range(0, len(items), _ITEMS_AT_A_TIME):
            some = items[start : start + _ITEMS_AT_A_TIME]
            latest |= _latest(connection, pipeline, some, mine, account)
    return [
        (latest[spot], unpack(json.loads(json.dumps(one)))) if spot in latest else None
        for spot, one in zip(spots, packed, strict=True)
    ]


def _latest(
    connection: Connection,
    pipeline: str,
    items: Sequence[str],
    spots: set[Spot],
    account: Account | None,
) -> dict[Spot, CheckedJob]:
    column = attempts.c
    query = (
        select(column.request)
        .where(
            column.pipeline == pipeline,
            column.item.in_(items),
            column.step.in_(sorted({step for _, _, step, *_ in spots})),
            # What never left was never asked for.
            column.state != JobState.PLANNED,
            belongs_to(account),
        )
        .order_by(column.id)
    )
    found: dict[Spot, CheckedJob] = {}
    for row in connection.execute(query):
        # What a broken row asked for cannot be told apart from what is asked for now.
        with suppress(*UNREADABLE):
            if (spot := _spot(row.request)) in spots:
                found[spot] = unpack(row.request)
    return found


def _spot(packed: Mapping[str, Any]) -> Spot:
    job = packed["job"]
    settings = json.dumps(job["settings"], sort_keys=True)
    return job["pipeline"], job["item"], job["step"], settings, job.get("part")


_PER_QUERY = 500
_LATELY = 1000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored file as the ledger knows it, and whose it is."""

    uri: str
    index: int
    key: str
    pipeline: str


def stored_in(connection: Connection, folders: Sequence[str]) -> list[Recorded]:
    """Find all files that are recorded in some folders, whoever has made them."""
    columns = (outputs.c.uri, outputs.c.index, attempts.c.key, attempts.c.pipeline)
    query = select(*columns).join(attempts, attempts.c.id == outputs.c.attempt_id)
    return [
        Recorded(*row)
        for folder in folders
        for row in connection.execute(
            query.where(outputs.c.uri.startswith(f"{folder}/", autoescape=True))
        )
    ]


def sources(connection: Connection, pipeline: str) -> set[str]:
    """Find where the steps were written that a pipeline of this name has run lately."""
    latest = (
        select(attempts.c.request[("job", "source")].as_string().label("source"))
        .where(attempts.c.pipeline == pipeline)
        .order_by(attempts.c.id.desc())
        .limit(_LATELY)
        .subquery()
    )
    found = connection.execute(select(latest.c.source).distinct()).scalars()
    return {source for source in found if source}


def provenance(
    connection: Connection, keys: Sequence[str], account: Account | None
) -> dict[str, Provenance]:
    """Return where what is stored of these jobs came from, in few queries however many they are."""
    found: dict[str, Provenance] = {}
    for start in range(0, len(keys), _PER_QUERY):
        query = (
            select(
                attempts.c.key,
                attempts.c.request_id,
                attempts.c.number,
                attempts.c.cost_usd,
                transitions.c.at,
            )
            .join(transitions, transitions.c.attempt_id == attempts.c.id)
            .where(attempts.c.key.in_(keys[start : start + _PER_QUERY]))
            .where(transitions.c.state == JobState.PERSISTED, belongs_to(account))
            .order_by(attempts.c.number)
        )
        for key, *told in connection.execute(query):
            found[key] = Provenance(*told)
    return found


def stored_at(connection: Connection, uris: Sequence[str]) -> dict[str, Attempt]:
    """Return for each of these places the attempt whose output was stored there."""
    ids = select(outputs.c.attempt_id).where(outputs.c.uri.in_(uris))
    found = read_attempts(connection, select(attempts).where(attempts.c.id.in_(ids)))
    asked = set(uris)
    return {
        output.uri: attempt
        for attempt in found
        for output in attempt.outputs
        if output.uri in asked
    }
