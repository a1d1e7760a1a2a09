"""How a run is cut into shards, who works on each right now, and what came of it.

A shard is held by lease: when its holder is gone, another takes it up. That spares work and costs
no money either way: job locks and claims guard each job, whoever walks it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from comfyline import files
from comfyline.errors import UsageError
from comfyline.ledger.database import Database, reading, writing
from comfyline.ledger.locks import LOCK_SECONDS
from comfyline.ledger.tables import runs, shards

_KEPT = timedelta(days=30)

Entry = Mapping[str, Any]
"""What became of one job, as JSON."""


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One shard of a run, without its entries.

    `number` counts from 1 to `of`; `began` is when the run's try began that was cut. `tries` is how
    often it was given to a worker, `flow_run_id` the last of these. `holder` is who works on it, or
    has ended it; with `is_lost` that process is gone. `progress` are its sums so far.
    """

    number: int
    of: int
    began: datetime
    tries: int
    flow_run_id: str | None
    holder: str | None
    is_lost: bool
    has_ended: bool
    progress: Mapping[str, float]

    @property
    def is_waiting(self) -> bool:
        """Whether nobody has begun it."""
        return self.holder is None and not self.has_ended

    @property
    def is_running(self) -> bool:
        """Whether somebody works on it."""
        return self.holder is not None and not (self.has_ended or self.is_lost)


class Shards:
    """The shards of all runs; `worker_id` is this process."""

    def __init__(
        self, database: Database, now: Callable[[Connection], datetime], worker_id: str
    ) -> None:
        self.database = database
        self.worker_id = worker_id
        self._now = now

    @writing
    def cut(self, connection: Connection, run_id: str, of: int, began: datetime) -> None:
        """Cut a run into shards that nobody works on yet; one that is cut already stays so."""
        # Of a run that nobody took up again, nobody asks any more.
        connection.execute(delete(shards).where(shards.c.began < began - _KEPT))
        if not self._rows(connection, run_id):
            fresh = {"run_id": run_id, "of": of, "began": began, "tries": 0}
            rows = [fresh | {"number": number} for number in range(1, of + 1)]
            connection.execute(insert(shards), rows)

    @reading
    def of_run(self, connection: Connection, run_id: str) -> Sequence[ShardRow]:
        """Return a run's shards in order, none where it is not cut."""
        return self._rows(connection, run_id)

    @writing
    def claim(self, connection: Connection, run_id: str, number: int, of: int) -> ShardRow | None:
        """Take a shard, unless it has ended, somebody works on it, or its run is over or stopped.

        Raises `UsageError` where this ledger has never heard of the run.
        """
        query = select(runs.c.stopped_at).where(runs.c.id == run_id)
        run = connection.execute(query).one_or_none()
        if run is None:
            raise UsageError(
                f"This worker's ledger does not know run {run_id}, of which it is to make a shard",
                hint="Workers need the ledger of the run: set COMFYLINE_LEDGER_URL, or `ledger` "
                "in the profile, to the same database everywhere.",
            )
        found = [row for row in self._rows(connection, run_id) if row.number == number]
        free = [
            one
            for one in found
            if one.of == of and not one.has_ended
            # Its own where only the answer to this was lost.
            if not one.is_running or one.holder == self.worker_id
        ]
        if run.stopped_at or not free:
            return None
        until = self._now(connection) + timedelta(seconds=LOCK_SECONDS)
        values = {"holder": self.worker_id, "held_until": until}
        connection.execute(update(shards).where(_one(run_id, number)).values(values))
        return free[0]

    @writing
    def renew(
        self, connection: Connection, run_id: str, number: int, progress: Mapping[str, float]
    ) -> bool:
        """Say that this process still works on a shard; return whether it is still its own."""
        until = self._now(connection) + timedelta(seconds=LOCK_SECONDS)
        return self._write(connection, run_id, number, held_until=until, progress={**progress})

    @writing
    def end(
        self,
        connection: Connection,
        run_id: str,
        number: int,
        progress: Mapping[str, float],
        entries: Sequence[Entry],
    ) -> bool:
        """Write down what became of a shard's jobs; False if another has taken it up since."""
        told = {"progress": {**progress}, "entries": [*entries]}
        return self._write(connection, run_id, number, ended_at=self._now(connection), **told)

    @writing
    def release(self, connection: Connection, run_id: str, number: int) -> None:
        """Let go of a shard that this process cannot end, so that another may take it up."""
        self._write(connection, run_id, number, held_until=self._now(connection))

    def _write(self, connection: Connection, run_id: str, number: int, **values: Any) -> bool:
        mine = and_(
            _one(run_id, number), shards.c.holder == self.worker_id, shards.c.ended_at.is_(None)
        )
        return connection.execute(update(shards).where(mine).values(values)).rowcount > 0

    @writing
    def given(
        self, connection: Connection, run_id: str, number: int, tries: int, flow_run_id: str
    ) -> None:
        """Write down which flow run a shard was given to, as which try.

        Whoever held it before does not any more.
        """
        values: dict[str, Any] = {"tries": tries, "flow_run_id": flow_run_id}
        rows = self._rows(connection, run_id)
        if any(one.is_lost for one in rows if one.number == number):
            values |= {"holder": None, "held_until": None}
        connection.execute(update(shards).where(_one(run_id, number)).values(values))

    @writing
    def cancelled(self, connection: Connection, run_id: str, number: int) -> None:
        """End a shard that was cancelled, unless somebody works on it, who then tells of it."""
        rows = [one for one in self._rows(connection, run_id) if one.number == number]
        if not any(one.is_running or one.has_ended for one in rows):
            nobodys: dict[str, Any] = {
                "holder": None,
                "held_until": None,
                "progress": {},
                "entries": [],
            }
            ended = update(shards).where(_one(run_id, number))
            connection.execute(ended.values(nobodys | {"ended_at": self._now(connection)}))

    @reading
    def entries(self, connection: Connection, run_id: str) -> Sequence[Entry]:
        """Return what became of the jobs of all shards of a run that have ended."""
        query = select(shards.c.entries).where(shards.c.run_id == run_id)
        found = connection.execute(query.order_by(shards.c.number)).scalars()
        return [entry for entries in found for entry in entries or ()]

    @writing
    def forget(self, connection: Connection, run_id: str) -> None:
        """Remove a run's shards, whose results it has taken over: a retry is cut anew."""
        connection.execute(delete(shards).where(shards.c.run_id == run_id))

    def _rows(self, connection: Connection, run_id: str) -> list[ShardRow]:
        now = self._now(connection)
        columns = [one for one in shards.c if one is not shards.c.entries]
        query = select(*columns).where(shards.c.run_id == run_id).order_by(shards.c.number)
        return [
            ShardRow(
                number=row.number,
                of=row.of,
                began=row.began,
                tries=row.tries,
                flow_run_id=row.flow_run_id,
                holder=row.holder,
                is_lost=row.holder is not None
                and row.ended_at is None
                and (row.held_until <= now or files.is_dead(row.holder)),
                has_ended=row.ended_at is not None,
                progress=row.progress or {},
            )
            for row in connection.execute(query)
        ]


def _one(run_id: str, number: int) -> ColumnElement[bool]:
    return and_(shards.c.run_id == run_id, shards.c.number == number)
