"""Who works on a job right now, so that no two do the same work; leases alone guard the money."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, select, update

from comfyline.config.account import Account
from comfyline.ledger.tables import holds, in_batches
from comfyline.ledger.writes import IsDead

# Made once: to build a statement takes longer than to execute it.
_THIS = (
    (holds.c.key == bindparam("this_key"))
    & (holds.c.origin == bindparam("this_origin"))
    & (holds.c.account == bindparam("this_account"))
)
_HOLDER = select(holds.c.held_by, holds.c.held_until).where(_THIS)
_TAKE_OVER = update(holds).where(_THIS)
_RELEASE_ALL = delete(holds).where(holds.c.held_by == bindparam("worker_id"))
_RELEASE = _RELEASE_ALL.where(holds.c.key == bindparam("this_key"))

LOCK_SECONDS = 45
"""How long a lock is believed that is not renewed."""

RENEW_SECONDS = 15
"""How often its holder renews it."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who locks jobs: a process, for one account; two accounts do not wait for each other."""

    worker_id: str
    account: Account | None

    @property
    def scope(self) -> dict[str, str]:
        """The columns that stand for the account."""
        account = self.account
        return {
            "origin": account.origin if account else "",
            "account": account.name if account else "",
        }

    def among_its_own(self) -> ColumnElement[bool]:
        """Select the locks for the same account."""
        scope = self.scope
        return (holds.c.origin == scope["origin"]) & (holds.c.account == scope["account"])


def acquire(
    connection: Connection, key: str, holder: LockHolder, now: datetime, is_dead: IsDead
) -> bool:
    """Lock a job, unless somebody else alive has it; return whether it is ours."""
    until = {"held_by": holder.worker_id, "held_until": now + timedelta(seconds=LOCK_SECONDS)}
    this = {"key": key, **holder.scope}
    named = {f"this_{name}": value for name, value in this.items()}
    row = connection.execute(_HOLDER, named).one_or_none()
    if row is None:
        connection.execute(insert(holds), this | until)
        return True
    if not _is_free(row.held_by, row.held_until, holder.worker_id, now, is_dead):
        return False
    connection.execute(_TAKE_OVER, named | until)
    return True


def unlocked(
    connection: Connection, keys: Sequence[str], holder: LockHolder, now: datetime, is_dead: IsDead
) -> set[str]:
    """Return which of these jobs nobody else has locked."""
    found: set[str] = set(keys)
    for some in in_batches(keys):
        query = select(holds).where(holds.c.key.in_(some), holder.among_its_own())
        for row in connection.execute(query):
            if not _is_free(row.held_by, row.held_until, holder.worker_id, now, is_dead):
                found.discard(row.key)
    return found


def is_any_locked(connection: Connection, worker_id: str, now: datetime, is_dead: IsDead) -> bool:
    """Return whether anybody else has locked a job, for whichever account."""
    query = select(holds.c.held_by, holds.c.held_until).distinct()
    return any(
        not _is_free(row.held_by, row.held_until, worker_id, now, is_dead)
        for row in connection.execute(query)
    )


def renew(connection: Connection, worker_id: str, now: datetime) -> None:
    """Say that this worker still works on all that it has locked."""
    until = now + timedelta(seconds=LOCK_SECONDS)
    connection.execute(update(holds).where(holds.c.held_by == worker_id).values(held_until=until))


def release(connection: Connection, worker_id: str, key: str | None) -> None:
    """Unlock one job, or all."""
    if key is None:
        connection.execute(_RELEASE_ALL, {"worker_id": worker_id})
    else:
        connection.execute(_RELEASE, {"worker_id": worker_id, "this_key": key})


def release_dead(connection: Connection, is_dead: IsDead) -> None:
    """Free what is held by those who are certainly gone, so that the ledger names no dead one."""
    holders = select(holds.c.held_by).distinct()
    gone = [one for one in connection.execute(holders).scalars() if is_dead(one)]
    if gone:
        connection.execute(delete(holds).where(holds.c.held_by.in_(gone)))


def _is_free(
    held_by: str, held_until: datetime, worker_id: str, now: datetime, is_dead: IsDead
) -> bool:
    return held_by == worker_id or held_until <= now or is_dead(held_by)
