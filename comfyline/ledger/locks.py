"""Who works on a job right now, so that no two do the same work; leases alone guard the money."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from comfyline import files
from comfyline.config.account import Account
from comfyline.errors import ComfylineError
from comfyline.ledger.database import Database, reading, writing
from comfyline.ledger.queries import LedgerQueries
from comfyline.ledger.tables import attempts, holds, in_batches

LOCK_SECONDS = 45
"""How long a lock is believed that is not renewed."""

RENEW_SECONDS = 15
"""How often its holder renews it."""

# Made once: to build a statement takes longer than to execute it.
_MINE = holds.c.held_by == bindparam("worker_id")
_THIS = (
    (holds.c.key == bindparam("this_key"))
    & (holds.c.origin == bindparam("this_origin"))
    & (holds.c.account == bindparam("this_account"))
)
_HOLDER = select(holds.c.held_by, holds.c.held_until).where(_THIS)
_TAKE_OVER = update(holds).where(_THIS)
_RELEASE = delete(holds).where(_MINE, holds.c.key == bindparam("this_key"))


class JobLocks(LedgerQueries):
    """The jobs that `worker_id`, this process, has locked: two accounts do not wait for each other.

    A lock is for one account.
    """

    def __init__(
        self,
        database: Database,
        account: Account | None,
        now: Callable[[], datetime] | None,
        worker_id: str,
    ) -> None:
        super().__init__(database, account, now)
        self.worker_id = worker_id
        self._locked: set[str] = set()
        named = (account.origin, account.name) if account else ("", "")
        self._scope = dict(zip(("origin", "account"), named, strict=True))

    async def acquire(self, key: str) -> bool:
        """Lock a job, unless another process works on it; return whether it is ours."""
        taken = await self.database.run(lambda c: self._take(c, key))
        if taken:
            self._locked.add(key)
        return taken

    def _take(self, connection: Connection, key: str) -> bool:
        now, this = self._now(connection), {"key": key, **self._scope}
        named = {f"this_{name}": value for name, value in this.items()}
        until = {"held_by": self.worker_id, "held_until": now + timedelta(seconds=LOCK_SECONDS)}
        row = connection.execute(_HOLDER, named).one_or_none()
        if row is None:
            connection.execute(insert(holds), this | until)
            return True
        if self._is_anothers(row.held_by, row.held_until, now):
            return False
        connection.execute(_TAKE_OVER, named | until)
        return True

    @reading
    def unlocked(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Return which of these jobs no other process works on any more."""
        now, found = self._now(connection), set(keys)
        for some in in_batches(keys):
            query = select(holds).filter_by(**self._scope).where(holds.c.key.in_(some))
            for row in connection.execute(query):
                if self._is_anothers(row.held_by, row.held_until, now):
                    found.discard(row.key)
        return found

    @reading
    def at_work(self, connection: Connection) -> list[str]:
        """Return which other processes work on any job right now, for whichever account."""
        return self.find_workers(connection)

    def find_workers(self, connection: Connection) -> list[str]:
        """Do what `at_work` does, in the transaction of a connection."""
        now, column = self._now(connection), attempts.c
        locked = select(holds.c.held_by, holds.c.held_until)
        leased = select(column.owner, column.lease_until).where(column.lease_until > now)
        held = connection.execute(locked.union(leased))
        alive = {who for who, until in held if self._is_anothers(who, until, now)}
        return sorted({who.partition("/")[0] for who in alive})

    async def release(self, key: str) -> None:
        """Let others work on a job."""
        self._locked.discard(key)
        await self.database.run(lambda c: self._let_go(c, key))

    def _let_go(self, connection: Connection, key: str) -> None:
        connection.execute(_RELEASE, {"worker_id": self.worker_id, "this_key": key})

    async def keep_locks(self) -> None:
        """Renew what this process holds for as long as it is let; to be run beside the work."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            # A lock that lapses spares no work and costs no money: the next round may do better.
            with suppress(ComfylineError):
                await self.renew_locks()

    async def renew_locks(self) -> None:
        """Say once that this process still works on what it holds."""
        if self._locked:
            await self._renew()

    @writing
    def _renew(self, connection: Connection) -> None:
        until = self._now(connection) + timedelta(seconds=LOCK_SECONDS)
        mine = update(holds).where(_MINE)
        connection.execute(mine, {"worker_id": self.worker_id, "held_until": until})

    async def release_locks(self) -> None:
        """Unlock every job of this process."""
        if self._locked:
            self._locked.clear()
            mine = delete(holds).where(_MINE)
            await self.database.run(lambda c: c.execute(mine, {"worker_id": self.worker_id}))

    def _is_anothers(self, held_by: str, held_until: datetime, now: datetime) -> bool:
        is_free = held_by == self.worker_id or held_until <= now
        return not (is_free or files.is_dead(held_by))


def release_dead(connection: Connection) -> None:
    """Free what is held by those who are certainly gone, so that the ledger names no dead one."""
    holders = select(holds.c.held_by).distinct()
    gone = [one for one in connection.execute(holders).scalars() if files.is_dead(one)]
    if gone:
        connection.execute(delete(holds).where(holds.c.held_by.in_(gone)))
