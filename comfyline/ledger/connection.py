"""The database behind the ledger, used from async code without blocking the event loop."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from comfyline.duration import seconds_awake_or_asleep
from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.ledger.schema import bring_up_to_date

T = TypeVar("T")

_BUSY_SECONDS = 30
_BUSY_PAUSE = 0.02
_PRIMARY_CODE = 0xFF
_READING = "comfyline_reading"
_ALONE = "SELECT pg_advisory_xact_lock(7266368, 1)"
"""One number for all ledgers of a PostgreSQL database: there is one."""
_POSTGRESQL = (
    # A commit that power loss can undo would forget a request id that was paid for.
    "-c synchronous_commit=on "
    # A machine that lost its power in the middle of a transaction must not hold the others up.
    "-c lock_timeout=30s -c idle_in_transaction_session_timeout=30s"
)


class LedgerDatabase:
    """One engine and the threads that use it.

    Each call is one transaction. A `run` is alone, over all processes, so that what it reads still
    holds when it writes: by BEGIN IMMEDIATE on SQLite, by an advisory lock on PostgreSQL. A `read`
    takes no lock and waits for nobody. Raises `InputInvalid` for a URL that names no database which
    can be used, and `Unreachable` where the database itself cannot be.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self._shown = parsed.render_as_string(hide_password=True)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite and parsed.database:
            try:
                _make_private(Path(parsed.database))
            except OSError as error:
                raise self._unusable(error) from error
        self._engine = _engine(parsed, sqlite=self._sqlite)
        # PostgreSQL would show each statement of a reading another moment.
        same_moment: dict[str, Any] = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self._engine.execution_options(**{_READING: True}, **same_moment)
        self._threads = ThreadPoolExecutor(1 if self._sqlite else 4, "ledger")
        self._ready = self._closed = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Does `work`, which writes, in one transaction, in a thread of the ledger's own."""
        return await self._in_thread(self._engine, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Does `work`, which only reads, in one transaction: all of it sees the same moment."""
        return await self._in_thread(self._reader, work)

    def now(self, connection: Connection) -> datetime:
        """The time by which leases and holds are kept: on PostgreSQL the server's, for all."""
        if self._sqlite:
            return datetime.now(UTC)
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def clock(self, moment: datetime) -> Callable[[], datetime]:
        """Return a clock that goes on from `moment`, which `now` has just told.

        PostgreSQL's time goes on by what has passed here, whatever this machine takes for the time
        of day; SQLite's is this machine's.
        """
        if self._sqlite:
            return lambda: datetime.now(UTC)
        began = seconds_awake_or_asleep()
        return lambda: moment + timedelta(seconds=seconds_awake_or_asleep() - began)

    def close(self) -> None:
        """Lets the threads end what was asked of them and closes every connection."""
        if self._closed:
            return
        self._closed = True
        if self._sqlite:
            # By the thread that opened it: SQLite lets nobody else close a database in memory.
            self._threads.submit(self._engine.dispose)
        self._threads.shutdown()
        if not self._sqlite:
            self._engine.dispose()

    async def _in_thread(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        # What was learnt is written down even when whoever learnt it is being cancelled.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._threads, self._do, engine, work))

    def _do(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        try:
            if not self._ready:
                bring_up_to_date(self._reader, self._engine)
                self._ready = True
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            # Everything else that a driver raises is a defect, and keeps its traceback.
            of_the_database = isinstance(error, OperationalError | InterfaceError | InternalError)
            if of_the_database or type(error) is DatabaseError:
                raise self._unusable(error.orig or error) from error
            raise

    def _unusable(self, error: BaseException) -> Unreachable:
        hint = "Nothing is submitted without it. It is set by COMFYLINE_LEDGER_URL, `ledger` in "
        hint += "the profile, or COMFYLINE_HOME."
        return Unreachable(f"The ledger {self._shown} cannot be used: {error}", hint=hint)


def _make_private(file: Path) -> None:
    """Makes a new database its owner's alone; SQLite gives its journals the same mode."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not (file.exists() or file.name.startswith((":", "file:"))):
        file.touch(mode=0o600)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _wrong("it is not an SQLAlchemy URL") from None
    # Without a driver named, the one that comes with comfyline.
    plain = parsed.drivername in {"postgres", "postgresql"}
    return parsed.set(drivername="postgresql+psycopg") if plain else parsed


def _wrong(message: str) -> InputInvalid:
    """The URL itself is not repeated: it may hold a password."""
    hint = "write sqlite:////folder/ledger.sqlite3 or postgresql://user:password@host/database"
    return InputInvalid([Problem("the ledger's URL", message, hint)])


def _engine(url: URL, *, sqlite: bool) -> Engine:
    arguments: dict[str, Any] = {}
    if sqlite:
        arguments = {"timeout": _BUSY_SECONDS}
    elif url.get_backend_name() == "postgresql":
        # What the URL itself asks for, a schema perhaps, is not to be lost.
        asked = url.query.get("options", "")
        options = " ".join([asked] if isinstance(asked, str) else asked)
        arguments = {"connect_timeout": 10, "options": f"{_POSTGRESQL} {options}".strip()}
    try:
        engine = create_engine(
            url, hide_parameters=True, connect_args=arguments, pool_pre_ping=not sqlite
        )
    except (ArgumentError, ImportError) as error:
        raise _wrong(f"{url.drivername} cannot be used here: {error}") from error
    if engine.dialect.is_async:
        raise _wrong(f"{url.drivername} is an asynchronous driver, and the ledger needs another")
    if sqlite:
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    else:
        event.listen(engine, "begin", _wait_to_be_alone)
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


def _wait_to_be_alone(connection: Connection) -> None:
    if connection.dialect.name == "postgresql" and not _is_reading(connection):
        connection.exec_driver_sql(_ALONE)


def _is_reading(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_READING))


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if _is_reading(connection) else "BEGIN IMMEDIATE")
