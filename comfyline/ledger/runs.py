"""Runs as the ledger knows them: opened, told to stop, and stopped."""

from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from comfyline.config.account import Account
from comfyline.ledger.tables import runs


def open_run(
    connection: Connection, run_id: str, pipeline: str, account: Account | None, now: datetime
) -> None:
    """Make a run known; one that is retried may submit again."""
    known = update(runs).where(runs.c.id == run_id).values(pipeline=pipeline, stopped_at=None)
    if not connection.execute(known).rowcount:
        whose = {"origin": account.origin, "account": account.name} if account else {}
        values = {"id": run_id, "pipeline": pipeline, "started_at": now, **whose}
        connection.execute(insert(runs).values(values))


def stop_runs(
    connection: Connection,
    account: Account | None,
    now: datetime,
    *,
    run_id: str | None = None,
    pipeline: str | None = None,
) -> int:
    """Stop one run of an account, or all that a pipeline still has going; return how many."""
    stop = update(runs).values(stopped_at=now)
    if account is not None:
        own = (runs.c.origin == account.origin) & (runs.c.account == account.name)
        stop = stop.where(own | runs.c.origin.is_(None))
    if run_id is not None:
        stop = stop.where(runs.c.id == run_id)
    else:
        stop = stop.where(runs.c.pipeline == pipeline, runs.c.stopped_at.is_(None))
    return connection.execute(stop).rowcount


def is_stopped(connection: Connection, run_id: str) -> bool:
    """Return whether somebody told a run to stop."""
    query = select(runs.c.id).where(runs.c.id == run_id, runs.c.stopped_at.is_not(None))
    return connection.execute(query).one_or_none() is not None
