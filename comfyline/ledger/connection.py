"""The database behind the ledger, used from async code without blocking the event loop."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.ledger.tables import metadata

T = TypeVar("T")

_BUSY_SECONDS = 30
_BUSY_PAUSE = 0.02
_PRIMARY_CODE = 0xFF
_READING = "comfyline_reading"


class LedgerDatabase:
    """One engine and the threads that use it.

    Each call is one transaction. On SQLite a `run` begins with BEGIN IMMEDIATE, so that what it
    reads still holds when it writes, over all processes; a `read` takes no lock and waits for
    nobody (WAL). Raises `InputInvalid` for a URL that names no database which can be used, and
    `Unreachable` where the database itself cannot be.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self._shown = parsed.render_as_string(hide_password=True)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite and parsed.database:
            try:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._unusable(error) from error
        self._engine = _engine(parsed, sqlite=self._sqlite)
        self._reader = self._engine.execution_options(**{_READING: True})
        self._threads = ThreadPoolExecutor(1 if self._sqlite else 4, "ledger")
        self._ready = self._closed = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Does `work`, which writes, in one transaction, in a thread of the ledger's own."""
        return await self._in_thread(self._engine, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Does `work`, which only reads, in one transaction: all of it sees the same moment."""
        return await self._in_thread(self._reader, work)

    def close(self) -> None:
        """Lets the threads end what was asked of them and closes every connection."""
        if self._closed:
            return
        self._closed = True
        # By the thread that opened it: SQLite lets nobody else close a database in memory.
        self._threads.submit(self._engine.dispose)
        self._threads.shutdown()

    async def _in_thread(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        # What was learnt is written down even when whoever learnt it is being cancelled.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._threads, self._do, engine, work))

    def _do(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        try:
            if not self._ready:
                self._make_tables()
                self._ready = True
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            # Everything else that a driver raises is a defect, and keeps its traceback.
            of_the_database = isinstance(error, OperationalError | InterfaceError | InternalError)
            if of_the_database or type(error) is DatabaseError:
                raise self._unusable(error.orig or error) from error
            raise

    def _make_tables(self) -> None:
        with self._reader.begin() as connection:
            if set(metadata.tables) <= set(inspect(connection).get_table_names()):
                return
        # Under the write lock it is looked again: of two that make them at once, one does.
        with self._engine.begin() as connection:
            metadata.create_all(connection)

    def _unusable(self, error: BaseException) -> Unreachable:
        hint = "Nothing is submitted without it. It is set by COMFYLINE_LEDGER_URL, `ledger` in "
        hint += "the profile, or COMFYLINE_HOME."
        return Unreachable(f"The ledger {self._shown} cannot be used: {error}", hint=hint)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise _wrong("it is not an SQLAlchemy URL") from None


def _wrong(message: str) -> InputInvalid:
    """The URL itself is not repeated: it may hold a password."""
    hint = "write sqlite:////folder/ledger.sqlite3 or postgresql://user:password@host/database"
    return InputInvalid([Problem("the ledger's URL", message, hint)])


def _engine(url: URL, *, sqlite: bool) -> Engine:
    options: dict[str, Any] = (
        {"connect_args": {"timeout": _BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True}
    )
    try:
        engine = create_engine(url, hide_parameters=True, **options)
    except (ArgumentError, ImportError) as error:
        raise _wrong(f"{url.drivername} cannot be used here: {error}") from error
    if engine.dialect.is_async:
        raise _wrong(f"{url.drivername} is an asynchronous driver, and the ledger needs another")
    if sqlite:
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    # SQLAlchemy begins transactions itself, see `_begin`; the driver must not.
    connection.isolation_level = None
    _switch_to_wal(connection)
    # A commit that power loss can undo would forget a request id that was paid for.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Waits by itself: of two that switch a new file at once, SQLite refuses one immediately."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return


def _begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
