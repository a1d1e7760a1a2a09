"""Who is at work: holds on jobs, and runs that may be told to stop."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, insert, true, update

from comfyline.config.account import Account
from comfyline.errors import ComfylineError
from comfyline.ledger import claiming, holds, writing
from comfyline.ledger.connection import LedgerDatabase
from comfyline.ledger.tables import runs
from comfyline.worker_id import is_dead


class Presence:
    """The part of the ledger that spares double work and hears of stops; money is not decided here.

    `owner` names this process; `now` is the clock, None for the database's own. What `account` has
    is all that is seen, and what is asked for is asked for it; None sees what everybody has.
    """

    def __init__(
        self,
        url: str,
        owner: str,
        now: Callable[[], datetime] | None = None,
        *,
        account: Account | None = None,
    ) -> None:
        self._database = LedgerDatabase(url)
        self._owner = owner
        self._clock = now
        self._account = account
        self._holder = holds.Holder(owner, account)
        self._held: set[str] = set()

    @property
    def owner(self) -> str:
        """The name of this process."""
        return self._owner

    async def clock(self) -> Callable[[], datetime]:
        """Return the clock by which the ledger's times are told, to be read without asking it."""
        if self._clock:
            return self._clock
        return self._database.clock(await self._database.read(self._database.now))

    async def take(self, key: str) -> bool:
        """Takes the hold on a job, unless another process works on it."""
        taken = await self._database.run(
            lambda c: holds.take(c, key, self._holder, self._now(c), is_dead)
        )
        if taken:
            self._held.add(key)
        return taken

    async def free(self, keys: Sequence[str]) -> set[str]:
        """Which of these jobs no other process works on any more."""
        return await self._database.read(
            lambda c: holds.free(c, keys, self._holder, self._now(c), is_dead)
        )

    async def is_anybody_at_work(self) -> bool:
        """Whether another process walks any job right now."""
        return await self._database.read(
            lambda c: holds.is_any_held(c, self._owner, self._now(c), is_dead)
        )

    async def release(self, key: str) -> None:
        """Lets others work on a job."""
        self._held.discard(key)
        await self._database.run(lambda c: holds.release(c, self._owner, key))

    async def keep_holding(self) -> None:
        """Renews what this process holds for as long as it is let; to be run beside the work."""
        while True:
            await asyncio.sleep(holds.RENEW_SECONDS)
            # A hold that lapses spares no work and costs no money: the next round may do better.
            with suppress(ComfylineError):
                await self.renew()

    async def renew(self) -> None:
        """Says once that this process still works on what it holds."""
        if self._held:
            await self._database.run(lambda c: holds.renew(c, self._owner, self._now(c)))

    async def release_all(self) -> None:
        """Lets others work on everything that this process held."""
        if self._held:
            self._held.clear()
            await self._database.run(lambda c: holds.release(c, self._owner, None))

    async def open_run(self, run_id: str, pipeline: str) -> datetime:
        """Makes a run known, so that it can be told to stop from anywhere; the time by the ledger.

        One that is retried, from the Prefect page, may submit again: what it had failed at before
        that time belongs to an earlier try.
        """

        def work(connection: Connection) -> datetime:
            now = self._now(connection)
            known = connection.execute(
                update(runs).where(runs.c.id == run_id).values(pipeline=pipeline, stopped_at=None)
            )
            if not known.rowcount:
                values = {"id": run_id, "pipeline": pipeline, "started_at": now}
                connection.execute(insert(runs).values(**values, **writing.whose(self._account)))
            return now

        return await self._database.run(work)

    async def stop_run(self, run_id: str) -> bool:
        """Lets a run submit nothing more; whether there is such a run."""

        def work(connection: Connection) -> bool:
            this = (runs.c.id == run_id) & self._own_runs()
            stop = update(runs).where(this).values(stopped_at=self._now(connection))
            return connection.execute(stop).rowcount > 0

        return await self._database.run(work)

    async def stop_pipeline(self, pipeline: str) -> int:
        """Lets the runs of a pipeline submit nothing more; how many that had not been told yet."""

        def work(connection: Connection) -> int:
            going = (runs.c.pipeline == pipeline, runs.c.stopped_at.is_(None), self._own_runs())
            stop = update(runs).where(*going).values(stopped_at=self._now(connection))
            return connection.execute(stop).rowcount

        return await self._database.run(work)

    async def is_stopped(self, run_id: str) -> bool:
        """Whether a run was told to stop."""
        return await self._database.read(lambda c: claiming.is_stopped(c, run_id))

    def _own_runs(self) -> ColumnElement[bool]:
        if self._account is None:
            return true()
        own = (runs.c.origin == self._account.origin) & (runs.c.account == self._account.name)
        return own | runs.c.origin.is_(None)

    def _now(self, connection: Connection) -> datetime:
        return self._clock() if self._clock else self._database.now(connection)
