"""Who walks a job right now, so that no two do the same work; the lease alone guards the money."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from comfyline.ledger.tables import jobs
from comfyline.ledger.writing import IsDead, know_job

HOLD_SECONDS = 45
"""How long a hold is believed that is not renewed."""

RENEW_SECONDS = 15
"""How often its holder renews it."""

_PER_QUERY = 500


def take(
    connection: Connection, key: str, model_id: str, owner: str, now: datetime, is_dead: IsDead
) -> bool:
    """Takes the hold on a job, unless somebody else alive has it."""
    know_job(connection, key, model_id, now)
    row = connection.execute(
        select(jobs.c.held_by, jobs.c.held_until).where(jobs.c.key == key)
    ).one()
    if not _is_free(row.held_by, row.held_until, owner, now, is_dead):
        return False
    until = now + timedelta(seconds=HOLD_SECONDS)
    connection.execute(
        update(jobs).where(jobs.c.key == key).values(held_by=owner, held_until=until)
    )
    return True


def free(
    connection: Connection, keys: Sequence[str], owner: str, now: datetime, is_dead: IsDead
) -> set[str]:
    """Which of these jobs nobody else holds."""
    found: set[str] = set(keys)
    for start in range(0, len(keys), _PER_QUERY):
        some = keys[start : start + _PER_QUERY]
        query = select(jobs.c.key, jobs.c.held_by, jobs.c.held_until).where(jobs.c.key.in_(some))
        for row in connection.execute(query):
            if not _is_free(row.held_by, row.held_until, owner, now, is_dead):
                found.discard(row.key)
    return found


def is_any_held(connection: Connection, owner: str, now: datetime, is_dead: IsDead) -> bool:
    """Whether anybody else holds a job."""
    query = select(jobs.c.held_by, jobs.c.held_until).where(jobs.c.held_by.is_not(None)).distinct()
    return any(
        not _is_free(row.held_by, row.held_until, owner, now, is_dead)
        for row in connection.execute(query)
    )


def renew(connection: Connection, owner: str, now: datetime) -> None:
    """Says that the owner still works on all that it holds."""
    until = now + timedelta(seconds=HOLD_SECONDS)
    connection.execute(update(jobs).where(jobs.c.held_by == owner).values(held_until=until))


def release(connection: Connection, owner: str, key: str | None) -> None:
    """Gives up the hold on one job, or on all."""
    mine = update(jobs).where(jobs.c.held_by == owner)
    if key is not None:
        mine = mine.where(jobs.c.key == key)
    connection.execute(mine.values(held_by=None, held_until=None))


def drop_dead(connection: Connection, is_dead: IsDead) -> None:
    """Frees what is held by those who are certainly gone, so that the ledger names no dead one."""
    holders = select(jobs.c.held_by).where(jobs.c.held_by.is_not(None)).distinct()
    gone = [one for one in connection.execute(holders).scalars() if is_dead(one)]
    if gone:
        connection.execute(
            update(jobs).where(jobs.c.held_by.in_(gone)).values(held_by=None, held_until=None)
        )


def _is_free(
    held_by: str | None, held_until: datetime | None, owner: str, now: datetime, is_dead: IsDead
) -> bool:
    if held_by is None or held_by == owner or held_until is None:
        return True
    return held_until <= now or is_dead(held_by)
