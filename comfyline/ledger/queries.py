"""What the ledger answers: rows → `Attempt` records, in few queries however many are asked for."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    bindparam,
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
from comfyline.ledger.database import Database, reading
from comfyline.ledger.tables import attempts, in_batches, jobs, ledger, outputs, transitions
from comfyline.run import Provenance

UNFINISHED = (
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.IN_QUEUE,
    JobState.IN_PROGRESS,
    JobState.COMPLETED,
)
"""States in which money is, or may be, at stake and a machine can still do something."""

_IN_HAND = frozenset(UNFINISHED) - {JobState.SUBMITTING}
_IS_UNFINISHED = attempts.c.state.in_(UNFINISHED) & attempts.c.request_id.is_not(None)
_MORE_THAN_ANY = 1_000_000
_WEIGHT = case(
    (attempts.c.state == JobState.PLANNED, -attempts.c.number),
    (attempts.c.state.in_(_IN_HAND), _MORE_THAN_ANY + attempts.c.number),
    else_=attempts.c.number,
)
"""Which attempt of a job counts: what is paid for and not stored, else the last that ever left.

There are two of the former where one was taken for lost and found after the next was submitted. One
that never left does not count beside an earlier one: a refresh that came to nothing must not hide
what is stored already, or in doubt.
"""
_LATELY = 1000
_LEARNED_FROM = 256
_LOOKED_THROUGH = 5000
_AS_STORED = set(attempts.c.keys()) - {"state", "account", "evidence"}
"""The columns of an attempt that are handed out as they are."""

_WHOLE_AS_STORED = [one.name for one in fields(Attempt) if one.name in _AS_STORED]
_SUMMARY_AS_STORED = [one.name for one in fields(AttemptSummary) if one.name in _AS_STORED]
_SUMMARY = (
    *(attempts.c[name] for name in ("id", "key", "state", *_SUMMARY_AS_STORED)),
    # As text: most are never looked into.
    cast(attempts.c.request, Text).label("packed"),
)

STORED = ("index", "uri", "sha256", "bytes", "media_type")
"""What is recorded of an output."""

Spot = tuple[str, str, str, str, int | None]
"""Pipeline, item, step, settings as JSON, part."""


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

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield what an attempt has to fulfil."""
        column = attempts.c
        for name in ("state", "pipeline", "run_id"):
            if wanted := getattr(self, name):
                yield column[name] == wanted
        if self.key_prefix:
            yield column.key.startswith(self.key_prefix, autoescape=True)
        if self.request_ids is not None:
            yield column.request_id.in_(self.request_ids)
        if self.since:
            yield column.updated_at >= self.since
        if self.until:
            yield column.updated_at < self.until


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored file as the ledger knows it, and whose it is."""

    uri: str
    index: int
    key: str
    pipeline: str


class LedgerQueries:
    """The questions that a ledger answers: each is one transaction, and waits for nobody.

    Only the attempts of `account` are seen, those of all for None. `now` is the clock, None for the
    database's own.
    """

    def __init__(
        self, database: Database, account: Account | None, now: Callable[[], datetime] | None
    ) -> None:
        self.database = database
        self.account = account
        self._clock = now

    @reading
    def identity(self, connection: Connection) -> str:
        """Return what tells this ledger from one that was made anew."""
        return str(connection.execute(select(ledger.c.id)).scalar_one())

    @reading
    def is_new_to(self, connection: Connection, account: Account) -> bool:
        """Return whether it has nothing of an account."""
        query = select(attempts.c.id).where(belongs_to(account)).limit(1)
        return connection.execute(query).one_or_none() is None

    @reading
    def find(self, connection: Connection, keys: Sequence[str]) -> dict[str, Attempt]:
        """Return the latest attempt of each known key."""
        return latest_attempts(connection, keys, self.account)

    @reading
    def summaries(self, connection: Connection, keys: Sequence[str]) -> dict[str, AttemptSummary]:
        """Return what decides about each known key and no more, for very many keys."""
        query = _counting(self.account).with_only_columns(*_SUMMARY, maintain_column_froms=True)
        found: dict[str, AttemptSummary] = {}
        for some in in_batches(keys):
            rows = connection.execute(query, {"keys": some}).all()
            files = _files(connection, rows)
            rejected = _rejections(connection, rows, self.account)
            for row in rows:
                found[row.key] = AttemptSummary(
                    state=JobState(row.state),
                    packed=row.packed,
                    outputs=tuple(files[row.id]),
                    rejections=rejected.get(row.id, 0),
                    **{name: getattr(row, name) for name in _SUMMARY_AS_STORED},
                )
        return found

    @reading
    def list(
        self,
        connection: Connection,
        selection: Selection = Selection(),  # frozen
        *,
        of_all: bool = False,
    ) -> Sequence[Attempt]:
        """Return the selected attempts, newest first; with `of_all` those of every account."""
        account = None if of_all else self.account
        query = select(attempts).where(belongs_to(account), *selection.conditions())
        return read_attempts(connection, query.order_by(attempts.c.id.desc()), account)

    @reading
    def unfinished(self, connection: Connection) -> Sequence[Attempt]:
        """Return what was paid for and is not stored, oldest submission first: it expires first.

        With what counts as expired although its days are not over: versions before this one ended a
        request by a single answer.
        """
        kept = attempts.c.submitted_at > self._now(connection) - KEPT
        too_soon = (attempts.c.state == JobState.EXPIRED) & kept
        query = (
            select(attempts)
            .where(_IS_UNFINISHED | too_soon, belongs_to(self.account))
            .order_by(attempts.c.submitted_at, attempts.c.id)
        )
        return read_attempts(connection, query, self.account)

    @reading
    def unfinished_elsewhere(self, connection: Connection) -> dict[Account, int]:
        """Return how many unfinished jobs the other accounts have, those in doubt with them.

        Each account is named by the profile with which it was last reached.
        """
        column = attempts.c
        query = (
            select(column.origin, column.account, column.profile)
            .where((column.state == JobState.IN_DOUBT) | _IS_UNFINISHED)
            .where(~belongs_to(self.account))
            .order_by(column.id.desc())
        )
        found: dict[Account, int] = {}
        for row in connection.execute(query):
            other = Account(row.origin, row.account, row.profile or "")
            found[other] = found.get(other, 0) + 1
        return found

    @reading
    def stored_at(self, connection: Connection, uris: Sequence[str]) -> dict[str, Attempt]:
        """Return for each of these places the attempt whose output it holds."""
        ids = select(outputs.c.attempt_id).where(outputs.c.uri.in_(uris))
        found = read_attempts(connection, select(attempts).where(attempts.c.id.in_(ids)))
        return {o.uri: one for one in found for o in one.outputs if o.uri in set(uris)}

    @reading
    def stored_in(self, connection: Connection, folders: Sequence[str]) -> Sequence[Recorded]:
        """Return all files that are recorded in some folders, whoever has made them."""
        columns = (outputs.c.uri, outputs.c.index, attempts.c.key, attempts.c.pipeline)
        query = select(*columns).join(attempts, attempts.c.id == outputs.c.attempt_id)
        inside = (outputs.c.uri.startswith(f"{one}/", autoescape=True) for one in folders)
        return [Recorded(*row) for one in inside for row in connection.execute(query.where(one))]

    @reading
    def sources(self, connection: Connection, pipeline: str) -> set[str]:
        """Return where the steps were written that a pipeline of this name has run lately."""
        query = select(attempts.c.request).where(attempts.c.pipeline == pipeline)
        latest = query.order_by(attempts.c.id.desc()).limit(_LATELY)
        found: set[str] = set()
        for request in connection.execute(latest).scalars():
            with suppress(*UNREADABLE):
                found.add(request["job"]["source"])
        return found - {""}

    @reading
    def provenance(self, connection: Connection, keys: Sequence[str]) -> dict[str, Provenance]:
        """Return where what is stored of these jobs came from, for those of which anything is."""
        column, stored = attempts.c, transitions.c.state == JobState.PERSISTED
        query = (
            select(column.key, column.request_id, column.number, column.cost_usd, transitions.c.at)
            .join(transitions, (transitions.c.attempt_id == column.id) & stored)
            .where(belongs_to(self.account))
            .order_by(column.number)
        )
        return {
            key: Provenance(*told)
            for some in in_batches(keys)
            for key, *told in connection.execute(query.where(column.key.in_(some)))
        }

    @reading
    def previous_attempts(
        self, connection: Connection, asked: Sequence[CheckedJob]
    ) -> Sequence[tuple[CheckedJob, CheckedJob] | None]:
        """Return for each job what was last submitted in its place, beside itself as kept.

        A place is an item, a step, its settings and its part, in one pipeline; kept are addresses
        without their queries.
        """
        packed = [pack(one) for one in asked]
        spots = [_spot(one) for one in packed]
        column, latest = attempts.c, dict[Spot, CheckedJob]()
        # What never left was never asked for.
        query = (
            select(column.request)
            .where(column.state != JobState.PLANNED, belongs_to(self.account))
            .where(column.step.in_(sorted({step for _, _, step, *_ in spots})))
            .order_by(column.id)
        )
        for pipeline in dict.fromkeys(spot[0] for spot in spots):
            mine = {spot for spot in spots if spot[0] == pipeline}
            for items in in_batches(sorted({item for _, item, *_ in mine})):
                here = query.where(column.pipeline == pipeline, column.item.in_(items))
                for request in connection.execute(here).scalars():
                    # What a broken row asked for cannot be told apart from what is asked for now.
                    with suppress(*UNREADABLE):
                        if (spot := _spot(request)) in mine:
                            latest[spot] = unpack(request)
        return [
            (latest[spot], unpack(json.loads(json.dumps(one)))) if spot in latest else None
            for spot, one in zip(spots, packed, strict=True)
        ]

    @reading
    def durations(
        self, connection: Connection, model_id: str
    ) -> Sequence[tuple[Mapping[str, Any], float]]:
        """Return the inputs of a model's last completed requests, and the seconds each ran.

        Few are enough, the oldest first; of what lies thousands of requests back nothing is said.
        """
        last = select(func.max(attempts.c.id)).scalar_subquery()
        query = (
            select(attempts.c.request, attempts.c.generation_seconds)
            .join(jobs, jobs.c.key == attempts.c.key)
            .where(jobs.c.model_id == model_id, attempts.c.generation_seconds.is_not(None))
            .where(attempts.c.id > last - _LOOKED_THROUGH, belongs_to(self.account))
            .order_by(attempts.c.id.desc())
            .limit(_LEARNED_FROM)
        )
        rows = connection.execute(query).all()
        return [
            (row.request["job"]["inputs"], row.generation_seconds)
            for row in rows[::-1]
            if row.request
        ]

    def _now(self, connection: Connection) -> datetime:
        return self._clock() if self._clock else self.database.now(connection)


@cache
def belongs_to(account: Account | None, table: Table = attempts) -> ColumnElement[bool]:
    """Select an account's own attempts or runs, all of them for None.

    What a version before accounts wrote is everybody's until an answer tells whose it is: better
    looked for at the wrong place than paid for twice.
    """
    if account is None:
        return true()
    own = (table.c.origin == account.origin) & (table.c.account == account.name)
    return or_(own, table.c.origin.is_(None))


def latest_attempts(
    connection: Connection, keys: Sequence[str], account: Account | None
) -> dict[str, Attempt]:
    """Return the latest attempt of each key that an account has."""
    found: dict[str, Attempt] = {}
    for some in in_batches(keys):
        for attempt in read_attempts(connection, _counting(account), account, keys=some):
            found[attempt.checked.key] = attempt
    return found


@cache
def _counting(account: Account | None) -> Select[Any]:
    """Select the attempt that counts of each of `keys` that an account has.

    Made once: to build a statement takes longer than to execute it.
    """
    mine = belongs_to(account)
    newest = (
        select(attempts.c.key, func.max(_WEIGHT).label("weight"))
        .where(attempts.c.key.in_(bindparam("keys", expanding=True)), mine)
        .group_by(attempts.c.key)
        .subquery()
    )
    is_newest = (attempts.c.key == newest.c.key) & (newest.c.weight == _WEIGHT)
    return select(attempts).join(newest, is_newest).where(mine)


def read_attempts(
    connection: Connection, query: Select[Any], account: Account | None = None, **parameters: Any
) -> list[Attempt]:
    """Return the attempts that a query over `attempts` selects, in its order.

    Rejections are counted among those of `account`.
    """
    rows = connection.execute(query, parameters).all()
    files, rejected = _files(connection, rows), _rejections(connection, rows, account)
    reached: dict[int, dict[JobState, datetime]] = defaultdict(dict)
    for some in in_batches([row.id for row in rows]):
        for row in connection.execute(_STEPS_OF, {"ids": some}):
            reached[row.attempt_id][JobState(row.state)] = row.at
    return [
        Attempt(
            state=JobState(row.state),
            checked=unpack_row(
                row.request, key=row.key, pipeline=row.pipeline, item=row.item, step=row.step
            ),
            account=Account(row.origin, row.account, row.profile or "") if row.origin else None,
            evidence=read_evidence(row.evidence),
            outputs=tuple(files[row.id]),
            reached=reached[row.id],
            rejections=rejected.get(row.id, 0),
            **{name: getattr(row, name) for name in _WHOLE_AS_STORED},
        )
        for row in rows
    ]


_STEPS_OF = (
    select(transitions)
    .where(transitions.c.attempt_id.in_(bindparam("ids", expanding=True)))
    .order_by(transitions.c.id)
)
_FILES_OF = (
    select(outputs.c.attempt_id, *(outputs.c[name] for name in STORED))
    .where(outputs.c.attempt_id.in_(bindparam("ids", expanding=True)))
    .order_by(outputs.c.id)
)


def _files(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, list[StoredOutput]]:
    """Return the stored outputs of attempts, by their ids."""
    files: dict[int, list[StoredOutput]] = defaultdict(list)
    for some in in_batches([row.id for row in rows]):
        for attempt_id, *stored in connection.execute(_FILES_OF, {"ids": some}):
            files[attempt_id].append(StoredOutput(*stored))
    return files


def _rejections(
    connection: Connection, rows: Sequence[Row[Any]], account: Account | None
) -> dict[int, int]:
    """Count for each rejected attempt those since the last refresh of its job, itself included."""
    column = attempts.c
    found: dict[int, int] = {}
    counts: dict[str, int] = defaultdict(int)
    for some in in_batches(sorted({row.key for row in rows if row.error_kind == Rejected.kind})):
        query = (
            select(column.id, column.key, column.error_kind, column.request)
            .where(column.key.in_(some), belongs_to(account))
            .order_by(column.key, column.number)
        )
        for row in connection.execute(query):
            if row.request and row.request.get(REFRESH):
                counts[row.key] = 0
            if row.error_kind == Rejected.kind:
                counts[row.key] += 1
                found[row.id] = counts[row.key]
    return found


def _spot(packed: Mapping[str, Any]) -> Spot:
    job = packed["job"]
    settings = json.dumps(job["settings"], sort_keys=True)
    return job["pipeline"], job["item"], job["step"], settings, job.get("part")
