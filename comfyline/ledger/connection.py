"""The database behind the ledger, used from async code without blocking the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url

from comfyline.ledger.tables import metadata

T = TypeVar("T")

_BUSY_SECONDS = 30


class LedgerDatabase:
    """One engine and the threads that use it.

    Each `run` is one transaction. On SQLite it begins with BEGIN IMMEDIATE, so that what it reads
    still holds when it writes, over all processes; a reader never waits (WAL).
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _engine(url, sqlite=self._sqlite)
        self._threads = ThreadPoolExecutor(1 if self._sqlite else 4, "ledger")
        self._ready = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Does `work` in one transaction, in a thread of the ledger's own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)

    def close(self) -> None:
        """Lets the threads end and closes every connection."""
        self._threads.shutdown()
        self._engine.dispose()

    def _do(self, work: Callable[[Connection], T]) -> T:
        if not self._ready:
            with self._engine.begin() as connection:
                metadata.create_all(connection)
            self._ready = True
        with self._engine.begin() as connection:
            return work(connection)


def _engine(url: str, *, sqlite: bool) -> Engine:
    if not sqlite:
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    def prepare(connection: Any, _record: Any) -> None:
        # SQLAlchemy begins transactions itself, see `begin`; the driver must not.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # A commit that power loss can undo would forget a request id that was paid for.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine
