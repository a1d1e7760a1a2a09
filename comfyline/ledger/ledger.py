"""The ledger: each method is one transaction, and says which crash it is safe against."""

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from comfyline import files
from comfyline.config.account import Account, command
from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.errors import ComfylineError, Expired, GivenUp, NotKnownNow
from comfyline.job import CheckedJob, JobState, StoredOutput
from comfyline.ledger import claims, writes
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.block_reasons import short
from comfyline.ledger.claims import Claim, ClaimRequest, Limits, SlotHolder
from comfyline.ledger.database import PATIENCE, Database, reading, writing
from comfyline.ledger.locks import JobLocks, release_dead
from comfyline.ledger.pace import take_place
from comfyline.ledger.queries import belongs_to
from comfyline.ledger.retention import is_lost
from comfyline.ledger.savings import Saving
from comfyline.ledger.shards import Shards
from comfyline.ledger.standing import Standing, standing
from comfyline.ledger.tables import attempts, holds, in_batches, runs, savings
from comfyline.ledger.writes import StateConflict, move_output, record_outputs, whose
from comfyline.redact import without_secrets

_STORED = frozenset({JobState.PERSISTED})
_SETTLED = frozenset(JobState) - {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS}
"""Where another process may have brought an attempt that this one still watches."""
_NOTHING = Evidence()


class Ledger(JobLocks):
    """The record of jobs, attempts, costs and outputs in one database.

    `worker_id` names this process.
    """

    def __init__(
        self,
        url: str,
        worker_id: str,
        now: Callable[[], datetime] | None = None,
        *,
        account: Account | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(Database(url, patience=patience), account, now, worker_id)
        self.shards = Shards(self.database, self._now, worker_id)
        # The marks of claims that nobody here will POST under, committed or not.
        self._unheard: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the database. Nothing is lost by not calling it."""
        self.database.close()

    async def clock(self) -> Callable[[], datetime]:
        """Return the clock by which the ledger's times are told, to be read without asking it."""
        if self._clock:
            return self._clock
        return self.database.clock(await self.database.read(self.database.now))

    async def adopt(self, account: Account, request_ids: Callable[[], Collection[str]]) -> int:
        """Give an account what older versions wrote under its request ids; return how many.

        `request_ids` tells them, and is asked in a thread, only where there is anything to adopt.
        """
        nobodys = attempts.c.origin.is_(None) & attempts.c.request_id.is_not(None)
        query = select(attempts.c.id, attempts.c.request_id).where(nobodys)
        rows = await self.database.read(lambda c: c.execute(query).all())
        if not rows:
            return 0
        its_own = await asyncio.to_thread(request_ids)
        mine = [row.id for row in rows if row.request_id in its_own]
        told = {**writes.whose(account), "profile": account.profile}

        def work(connection: Connection) -> None:
            for some in in_batches(mine):
                which = attempts.c.id.in_(some) & attempts.c.origin.is_(None)
                connection.execute(update(attempts).where(which).values(told))

        await self.database.run(work)
        return len(mine)

    @reading
    def slot_holders(self, connection: Connection) -> Sequence[SlotHolder]:
        """Return the requests that fill the profile's slots, the oldest first."""
        now, locked = self._now(connection), holds.c.key == attempts.c.key
        for name, value in self._scope.items():
            locked &= holds.c[name] == value
        query = (
            select(attempts.c.id, attempts.c.request_id, attempts.c.run_id, attempts.c.state)
            .add_columns(holds.c.held_by, holds.c.held_until)
            .outerjoin(holds, locked)
            .where(claims.holds_slot(self.account))
            .order_by(attempts.c.id)
        )
        return [
            SlotHolder(
                attempt_id=row.id,
                request_id=row.request_id or "",
                run_id=row.run_id,
                # What is being submitted has a lease, which ends by itself.
                is_watched=row.request_id is None
                or bool(row.held_by and row.held_until > now and not files.is_dead(row.held_by)),
                is_in_doubt=row.state == JobState.IN_DOUBT,
            )
            for row in connection.execute(query, {"now": now})
        ]

    @writing
    def free_slot(self, connection: Connection, attempt_id: int) -> None:
        """Note that a request takes no room at RunComfy any more, whatever became of it."""
        writes.set_values(connection, attempt_id, slot_until=self._now(connection))

    async def end_dead_leases(self) -> int:
        """Put in doubt what dead processes were submitting; return how many those were.

        What they were working on is free again.
        """
        unheard = self._unheard

        def work(connection: Connection) -> int:
            now = self._now(connection)
            writes.release_unheard(connection, unheard, now)
            release_dead(connection)
            return writes.end_dead_leases(connection, now)

        ended = await self.database.run(work)
        self._unheard -= unheard
        return ended

    async def release_all(self) -> None:
        """Unlock every job of this process, and what it claimed without hearing of it."""
        if self._unheard:
            await self.end_dead_leases()
        await self.release_locks()

    @writing
    def open_run(self, connection: Connection, run_id: str, pipeline: str) -> datetime:
        """Make a run known, so that it can be stopped from anywhere; return the ledger's time.

        One that is retried may submit again. What it had failed at before that time belongs to an
        earlier try.
        """
        now = self._now(connection)
        known = update(runs).where(runs.c.id == run_id).values(pipeline=pipeline, stopped_at=None)
        if not connection.execute(known).rowcount:
            values = {"id": run_id, "pipeline": pipeline, "started_at": now}
            connection.execute(insert(runs).values(**values, **whose(self.account)))
        return now

    @writing
    def saved(self, connection: Connection, run_id: str, found: Sequence[Saving]) -> None:
        """Record what a run did not pay again, in the place of what an earlier try recorded."""
        connection.execute(delete(savings).where(savings.c.run_id == run_id))
        rows = [
            {**asdict(one), "run_id": run_id, "labels": dict(one.labels) or None} for one in found
        ]
        if rows:
            connection.execute(insert(savings), rows)

    @writing
    def run_completed(self, connection: Connection, run_id: str) -> None:
        """Write down that a run ended with everything there, for whoever watches for it."""
        ended = update(runs).where(runs.c.id == run_id)
        connection.execute(ended.values(completed_at=self._now(connection)))

    @reading
    def standing(self, connection: Connection) -> Standing:
        """Return where all jobs stand, in numbers."""
        return standing(connection, self.account, self._now(connection))

    @writing
    def stop_run(self, connection: Connection, run_id: str) -> bool:
        """Let a run submit nothing more; return whether there is such a run."""
        return self._stop(connection, runs.c.id == run_id) > 0

    @writing
    def stop_pipeline(self, connection: Connection, pipeline: str) -> int:
        """Let a pipeline's runs submit nothing more; return how many had not been told yet."""
        return self._stop(connection, (runs.c.pipeline == pipeline) & runs.c.stopped_at.is_(None))

    def _stop(self, connection: Connection, which: ColumnElement[bool]) -> int:
        stop = update(runs).where(which, belongs_to(self.account, runs))
        return connection.execute(stop.values(stopped_at=self._now(connection))).rowcount

    @reading
    def is_stopped(self, connection: Connection, run_id: str) -> bool:
        """Return whether a run was told to stop."""
        return claims.is_stopped(connection, run_id)

    async def claim(
        self,
        checked: CheckedJob,
        *,
        run_id: str,
        refresh: bool,
        limits: Limits,
        began: datetime | None = None,
        balance_usd: float | None = None,
        place: float | None = None,
        takes: float = 0,
        more: bool = False,
        share: str = "",
        waiting: frozenset[str] = frozenset(),
    ) -> Claim:
        """Decide and commit the intent to submit, in one transaction before the POST.

        Of any number of processes that ask for the same key at once, one gets `Claimed`.
        `began` is when this try of the run began, as `open_run` told it; `balance_usd` is the
        account's right before, for a doubt. `place` is what an earlier claim was given for this
        one, `takes` how many seconds until it is there; with `more`, it is given another for the
        next. `share` is for whom the slot is, and `waiting` for whom other jobs of this process
        wait.
        """
        request = ClaimRequest(
            checked=checked,
            account=self.account,
            scope=self._scope,
            run_id=run_id,
            began=began,
            refresh=refresh,
            limits=limits,
            worker_id=self.worker_id,
            balance_usd=balance_usd,
            place=place,
            takes=takes,
            more=more,
            share=share,
            waiting=waiting,
        )
        unheard, meant = self._unheard, set[str]()

        def work(connection: Connection) -> Claim:
            now, here = self._now(connection), seconds_awake_or_asleep()
            # Of what the tries before this one meant, nobody heard whether it was committed.
            writes.release_unheard(connection, unheard | meant, now)
            mark = f"{short(checked.key)}-{secrets.token_hex(4)}"
            meant.add(mark)
            return claims.claim(connection, request, mark, now, here)

        claiming = asyncio.ensure_future(self.database.run(work))
        try:
            claim = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Its POST never leaves, so it is not to be doubted.
            await asyncio.wait([claiming])
            self._unheard |= meant
            with suppress(ComfylineError):
                await self.end_dead_leases()
            raise
        except Exception:
            # Whether it was committed or not: nobody will POST under it.
            self._unheard |= meant
            raise
        self._unheard -= unheard
        return claim

    @writing
    def take_place(self, connection: Connection, per_second: float) -> float:
        """Take another place in time for a POST that missed its own, in seconds awake or asleep."""
        now, here = self._now(connection), seconds_awake_or_asleep()
        return here + take_place(connection, self._scope, per_second, now)

    async def accepted(self, attempt_id: int, request_id: str) -> datetime:
        """Write the request id down right after the POST: from here on nothing can be lost.

        Also when the lease is over and the attempt in doubt already: this ends the doubt. What a
        person took for lost is paid for after all and goes on, beside a later one if there is one.
        """
        try:
            return await self.database.run(
                lambda c: writes.accept(c, attempt_id, request_id, self._now(c))
            )
        except ComfylineError as error:
            # The only trace of something paid for: the error has to carry it to a person.
            error.message = f"RunComfy accepted request {request_id}. {error.message}"
            error.hint = f"Keep the id for {command(f'resolve JOB --request-id {request_id}')}."
            error.request_id = request_id
            raise

    async def not_sent(self, attempt_id: int, mark: str) -> None:
        """Release a claim whose POST was certainly not accepted: it may be submitted again."""
        try:
            await self.database.run(lambda c: writes.release(c, attempt_id, mark, self._now(c)))
        except ComfylineError:
            # It did not leave, whether this could be written down or not: our next claim may.
            self._unheard |= {mark}
            raise

    async def given_up(self, attempt_id: int) -> None:
        """Give up what was accepted and cannot be finished: failed, counted as charged.

        Raises `StateConflict` for what was never accepted, is in doubt, or is stored.
        """
        error = GivenUp(
            "It was given up with `comfyline resolve --give-up`; what was paid for it is lost",
            hint="`--refresh` makes it again, and pays again.",
        )
        await self.ended(attempt_id, JobState.FAILED, error)

    @writing
    def lost(self, connection: Connection, attempt_id: int, error: ComfylineError) -> None:
        """End a submission in doubt as failed: a person says that it never reached RunComfy.

        Said again, it changes nothing. Raises `StateConflict` when the answer came while the person
        was looking: it is paid for.
        """
        row, reason = writes.standing(connection, attempt_id), _reason(error)
        told = {"error_kind": row.error_kind, "error_message": row.error_message}
        if row.state == JobState.FAILED and reason == told:
            return
        if row.state != JobState.IN_DOUBT:
            raise StateConflict(f"Attempt {attempt_id} is {row.state}, not in doubt")
        reason |= {"owner": None, "lease_until": None}
        writes.move(connection, attempt_id, JobState.FAILED, self._now(connection), **reason)

    @writing
    def observed(self, connection: Connection, attempt_id: int, state: JobState) -> None:
        """Record where the request waits or runs; an older answer changes nothing."""
        self._move(connection, attempt_id, state, unless=_SETTLED)

    @writing
    def completed(
        self,
        connection: Connection,
        attempt_id: int,
        cost_usd: float | None,
        queue_seconds: float | None = None,
        generation_seconds: float | None = None,
    ) -> None:
        """Record that the result is there, for how much and after how long, where that is known."""
        told = {
            "cost_usd": cost_usd,
            "queue_seconds": queue_seconds,
            "generation_seconds": generation_seconds,
        }
        known = {name: value for name, value in told.items() if value is not None}
        self._move(connection, attempt_id, JobState.COMPLETED, unless=_STORED, **known)

    @writing
    def missing(
        self, connection: Connection, attempt_id: int, submitted_at: datetime, error: NotKnownNow
    ) -> bool:
        """Record that RunComfy does not know the request; return whether that ends it.

        What is stored stays stored.
        """
        now, row = self._now(connection), writes.standing(connection, attempt_id)
        if row.missing_since is None:
            writes.set_values(connection, attempt_id, missing_since=now)
        if not is_lost(submitted_at, row.missing_since or now, now):
            return False
        if row.state != JobState.PERSISTED:
            reason = _reason(Expired(error.message))
            writes.move(connection, attempt_id, JobState.EXPIRED, now, **reason)
        return True

    @writing
    def persisted(
        self, connection: Connection, attempt_id: int, stored: Sequence[StoredOutput]
    ) -> None:
        """Record outputs under their final names, verified: written last of all."""
        record_outputs(connection, attempt_id, stored)
        over: dict[str, Any] = {"error_kind": None, "error_message": None}
        writes.move(connection, attempt_id, JobState.PERSISTED, self._now(connection), **over)

    @writing
    def moved(self, connection: Connection, attempt_id: int, uri: str, to: str) -> None:
        """Record an output's new name, verified; its old name may be written over now.

        Raises `StateConflict` when another process has moved it in between.
        """
        if not move_output(connection, attempt_id, uri, to):
            raise StateConflict(f"{uri} was just moved aside by another run", "Run again.")

    @writing
    def ended(
        self,
        connection: Connection,
        attempt_id: int,
        state: JobState,
        error: ComfylineError,
        *,
        cost_usd: float | None = None,
        evidence: Evidence = _NOTHING,
    ) -> None:
        """End an attempt without outputs, for the reason that `error` gives.

        `cost_usd` is what it was charged all the same, where RunComfy says so; `evidence` what is
        known of a POST whose outcome is not.
        """
        over: dict[str, Any] = {"owner": None, "lease_until": None, **_reason(error)}
        if cost_usd is not None:
            over["cost_usd"] = cost_usd
        if evidence != _NOTHING:
            known = writes.standing(connection, attempt_id).evidence or {}
            over["evidence"] = known | {
                name: without_secrets(value) if isinstance(value, str) else value
                for name, value in asdict(evidence).items()
                if value is not None
            }
        self._move(connection, attempt_id, state, **over)

    def _move(self, connection: Connection, attempt_id: int, to: JobState, **values: Any) -> None:
        now = self._now(connection)
        writes.move(connection, attempt_id, to, now, heard_by=self.account, **values)


def _reason(error: ComfylineError) -> dict[str, Any]:
    """Return an error as values to write: RunComfy's own words may repeat a presigned URL."""
    return {"error_kind": error.kind, "error_message": without_secrets(str(error))}
