"""The sums of `comfyline report`, made by the database: to read whole attempts takes minutes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)

from comfyline.config.account import Account
from comfyline.job import JobState
from comfyline.ledger.attempts import PAID_IN_VAIN
from comfyline.ledger.queries import UNFINISHED, LedgerQueries, belongs_to
from comfyline.ledger.tables import attempts, jobs, runs, savings, transitions

Sums = Mapping[str | None, Mapping[str, Any]]
"""The figures of each group by the group's name: None where a label is not set, `ALL` for all."""

LABEL = "label."
"""What the name of a grouping by a label begins with."""
ALL = ""

_SUBMITTED = func.coalesce(attempts.c.claimed_at, attempts.c.created_at)
_PERCENTILES = (50, 95)


async def read_sums(
    ledger: LedgerQueries, since: datetime, until: datetime, by: str, *, durations: bool = True
) -> Sums:
    """Sum up what an account asked for in a period, by pipeline, model, day or label.

    An attempt belongs to the time at which it was submitted, what a run did not pay again to the
    time at which the run began. Days are those of UTC. Durations take the longest, and may be left
    out.
    """

    def work(connection: Connection) -> Sums:
        period = _Period(connection, ledger.account, since, until)
        return period.sums(by, durations=durations)

    return await ledger.database.read(work)


async def read_failures(
    ledger: LedgerQueries, since: datetime, until: datetime
) -> Mapping[str, int]:
    """Count what ended without outputs in a period, by the kind of its error."""
    return await ledger.database.read(
        lambda connection: _Period(connection, ledger.account, since, until).failures()
    )


class _Period:
    """The attempts and runs of an account in a period, asked for by one connection."""

    def __init__(
        self, connection: Connection, account: Account | None, since: datetime, until: datetime
    ) -> None:
        self._connection = connection
        self._is_postgresql = connection.dialect.name == "postgresql"
        claimed, made = attempts.c.claimed_at, attempts.c.created_at
        self._asked = and_(
            # Said this way round, an index serves both.
            or_(
                and_(claimed >= since, claimed < until),
                and_(claimed.is_(None), made >= since, made < until),
            ),
            attempts.c.state != JobState.PLANNED,
            belongs_to(account),
        )
        self._ran = and_(
            runs.c.started_at >= since, runs.c.started_at < until, belongs_to(account, runs)
        )

    def sums(self, by: str, *, durations: bool) -> Sums:
        every: dict[str, Any] = {"group": ALL}
        found: dict[str | None, dict[str, Any]] = {ALL: every}
        for query in (self._counts(by), self._savings(by), self._unanswered(by)):
            for row in self._connection.execute(query).mappings():
                found.setdefault(row["group"], {}).update(row)
                for name in row.keys() - {"group"}:
                    every[name] = every.get(name, 0) + row[name]
        if durations:
            for group, name, number, of, seconds in self._connection.execute(self._durations(by)):
                for percent in _PERCENTILES:
                    if number == _rank(of, percent):
                        found[group][f"{name}_p{percent}"] = seconds
        return found

    def failures(self) -> Mapping[str, int]:
        kind = func.coalesce(attempts.c.error_kind, attempts.c.state)
        ends = (JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED, JobState.IN_DOUBT)
        query = select(kind, func.count()).where(self._asked, attempts.c.state.in_(ends))
        return dict(self._connection.execute(query.group_by(kind)).tuples().all())

    def _counts(self, by: str) -> Select[Any]:
        column, state = attempts.c, attempts.c.state
        accepted = column.request_id.is_not(None)
        unknown = or_(
            state.in_((JobState.COMPLETED, JobState.PERSISTED, JobState.EXPIRED)),
            and_(state == JobState.FAILED, column.error_kind.in_(PAID_IN_VAIN)),
        )
        group = self._group(by, attempts)
        query = select(
            group.label("group"),
            _number(or_(accepted, state.in_((JobState.SUBMITTING, JobState.IN_DOUBT)))).label(
                "requests"
            ),
            _number(state == JobState.PERSISTED).label("stored"),
            _number(state.in_((JobState.FAILED, JobState.EXPIRED))).label("failed"),
            _number(state == JobState.CANCELLED).label("cancelled"),
            _number(state == JobState.IN_DOUBT).label("in_doubt"),
            _number(state.in_(UNFINISHED)).label("unfinished"),
            func.coalesce(func.sum(column.cost_usd), 0.0).label("cost_usd"),
            _number(and_(accepted, unknown, column.cost_usd.is_(None))).label("cost_unknown"),
        )
        return self._of_model(query, by).where(self._asked).group_by(group)

    def _savings(self, by: str) -> Select[Any]:
        group = self._group(by, savings)
        query = select(
            group.label("group"),
            func.sum(savings.c.reused).label("reused"),
            func.sum(savings.c.taken_over).label("taken_over"),
            func.sum(savings.c.cost_usd).label("saved_usd"),
            func.sum(savings.c.cost_unknown).label("saved_unknown"),
        )
        return query.join(runs, runs.c.id == savings.c.run_id).where(self._ran).group_by(group)

    def _unanswered(self, by: str) -> Select[Any]:
        """Count the attempts whose answer never came, and which were not sent again."""
        group = self._group(by, attempts)
        doubts = select(transitions.c.attempt_id).where(transitions.c.state == JobState.IN_DOUBT)
        query = select(group.label("group"), func.count().label("not_repeated"))
        query = self._of_model(query.select_from(attempts), by)
        # Of a stored file that does not say whose it is there was no POST.
        left = and_(attempts.c.claimed_at.is_not(None), attempts.c.id.in_(doubts))
        return query.where(self._asked, left).group_by(group)

    def _durations(self, by: str) -> Select[Any]:
        """Rank the seconds in the queue and of generation in each group, and in all together."""
        group = self._group(by, attempts)
        of_attempts = select(
            group.label("group"),
            attempts.c.queue_seconds.label("queue"),
            attempts.c.generation_seconds.label("generation"),
        ).select_from(attempts)
        spans = self._of_model(of_attempts, by).where(self._asked).cte("spans")
        each = union_all(
            *(
                select(
                    of.label("group"), literal(name).label("name"), spans.c[name].label("seconds")
                ).where(spans.c[name].is_not(None))
                for name in ("queue", "generation")
                for of in (spans.c.group, literal(ALL))
            )
        ).subquery()
        among = (each.c.group, each.c.name)
        ordered = func.row_number().over(partition_by=among, order_by=each.c.seconds)
        ranked = select(
            each.c.group,
            each.c.name,
            ordered.label("number"),
            func.count().over(partition_by=among).label("of"),
            each.c.seconds,
        ).subquery()
        wanted = [ranked.c.number == _rank(ranked.c.of, percent) for percent in _PERCENTILES]
        return select(ranked).where(or_(*wanted))

    def _group(self, by: str, table: Table) -> ColumnElement[Any]:
        match by:
            case "pipeline":
                return runs.c.pipeline if table is savings else attempts.c.pipeline
            case "model":
                return savings.c.model_id if table is savings else jobs.c.model_id
            case "day":
                return self._day(runs.c.started_at if table is savings else _SUBMITTED)
            case _:
                return self._label(table, by.removeprefix(LABEL))

    def _of_model(self, query: Select[Any], by: str) -> Select[Any]:
        return query.join(jobs, jobs.c.key == attempts.c.key) if by == "model" else query

    def _label(self, table: Table, name: str) -> ColumnElement[Any]:
        value: ColumnElement[Any] = table.c.labels[name].as_string()
        if self._is_postgresql:
            return value
        # A row that somebody has broken must not hide all others.
        return case((func.json_valid(table.c.labels) == 1, value), else_=null())

    def _day(self, moment: ColumnElement[datetime]) -> ColumnElement[str]:
        if self._is_postgresql:
            return func.to_char(func.timezone("UTC", moment), "YYYY-MM-DD")
        return func.date(moment)


def _rank(number: Any, percent: int) -> Any:
    """Return the nearest rank of a percentile: a time that somebody has really waited."""
    return (number * percent + 99) // 100


def _number(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((which, 1), else_=0))
