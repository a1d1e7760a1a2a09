"""The database behind the ledger, used from async code without blocking the event loop."""

import asyncio
import importlib
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import psutil
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)

from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.progress import Note, tell

T = TypeVar("T")
P = ParamSpec("P")
S = TypeVar("S", bound="_HasDatabase")

PATIENCE = 180.0
"""Seconds for which a database that answered before is waited for; failing over takes 30 to 120."""

MIGRATIONS = Path(__file__).with_name("migrations")
MOVED, MOVING = "moved", "moving"
"""In the place of a schema's number: a ledger that is closed, by which a process that has it open
and an older comfyline are stopped as well; and one that a move has not ended yet."""
WRITE_LOCK = "SELECT pg_advisory_xact_lock(7266368, 1)"
"""One number for all ledgers of a PostgreSQL database: there is one."""

_PAUSES = wait_random_exponential(multiplier=0.1, max=2)
_BUSY_SECONDS = 30
_READING = "comfyline_reading"
_FOR_THIS_TRANSACTION = (
    # Asked for in each transaction: behind a pooler the next one may run in another session, and
    # PgBouncer takes no options at the start of one.
    # A commit that power loss can undo would forget a request id that was paid for.
    "SET LOCAL synchronous_commit = on; "
    # A machine that lost its power in the middle of a transaction must not hold the others up.
    "SET LOCAL lock_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '30s'"
)
_CONNECTING: dict[str, Any] = {
    "connect_timeout": 10,
    # Behind a pooler, the next statement may reach a session that never heard of a prepared one.
    "prepare_threshold": None,
    # A server that went without a word, power and all, is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_AWAY_STATES = {"25006", "25P03", "40001", "40P01", "55P03"}
"""A standby that is not promoted yet, a transaction that took too long, a lock that was not got."""
_AWAY_CLASSES = {"08", "53", "57"}
"""The connection broke; memory, disk or connections ran out; the server is being ended or begun."""
_WRONG_STATES = {"42501", "3F000"}
"""This user may not make or use the tables."""
_PRIMARY_CODE = 0xFF
_AWAY_FILE = {
    sqlite3.SQLITE_BUSY: "another program has it locked",
    sqlite3.SQLITE_LOCKED: "another program has it locked",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR: "its disk is failing",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
}
"""What may be over in a moment, in words."""
_NETWORK = (
    "9p afpfs afs beegfs ceph cifs fhgfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 ocfs2 pvfs2"
    " smb2 smb3 smbfs vboxsf vmhgfs webdav"
)
_FUSE = (
    "ceph ceph-fuse curlftpfs davfs davfs2 gcsfuse geesefs glusterfs goofys grpcfuse juicefs"
    " mount-s3 osxfs rclone s3fs s3ql seaweedfs sshfs vmhgfs-fuse"
)
"""What is behind FUSE on another machine; an encrypted folder or a USB disk behind it is not."""
_ONE_AT_A_TIME = threading.Lock()
"""What alembic gives `env.py` is one for the whole process, whichever database it is about."""


class _Away(Unreachable):
    """The database does not answer now, and may the next time."""


class LedgerMoved(Unreachable):
    """The ledger is closed: it goes on at `place`, see `journal.place_of`."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"This ledger was moved to {place} and takes nothing any more",
            hint="Set COMFYLINE_LEDGER_URL, or `ledger` in the profile, to its URL there.",
        )
        self.place = place


class _HasDatabase(Protocol):
    database: "Database"


def reading(
    work: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make a method that reads on a connection an awaited one, in one `Database.read`."""

    @wraps(work)
    async def read(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.read(lambda c: work(self, c, *args, **kwargs))

    return read


def writing(
    work: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make a method that writes on a connection an awaited one, in one `Database.run`."""

    @wraps(work)
    async def write(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.run(lambda c: work(self, c, *args, **kwargs))

    return write


class Database:
    """One engine and the threads that use it.

    Each call is one transaction. A `run` is alone, over all processes, so that what it reads still
    holds when it writes: by BEGIN IMMEDIATE on SQLite, by an advisory lock on PostgreSQL. A `read`
    takes no lock and waits for nobody.

    A database that has answered and then does not is asked again for `patience` seconds, counted
    from its last answer for all calls together. So `work` may be done more than once, also after a
    commit of which only the answer was lost, and has to come to the same then. Raises
    `InputInvalid` for a URL that names no database which can be used, and `Unreachable` where the
    database itself cannot be: at once where waiting mends nothing. With `as_it_is` no table is made
    or migrated.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE, as_it_is: bool = False) -> None:
        parsed = _parsed(url)
        self.patience = patience
        self._shown = parsed.render_as_string(hide_password=True)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite and parsed.database:
            _refuse_network_disk(Path(parsed.database))
            try:
                _make_private(Path(parsed.database))
            except OSError as error:
                raise self._unusable(error) from error
        self._engine = _engine(parsed, sqlite=self._sqlite)
        # PostgreSQL would show each statement of a reading another moment.
        same_moment: dict[str, Any] = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self._engine.execution_options(**{_READING: True}, **same_moment)
        self._threads = ThreadPoolExecutor(1 if self._sqlite else 4, "ledger")
        self._closed, self._ready = False, as_it_is
        self._as_it_is = as_it_is
        self._away_since: float | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work`, which writes, in one transaction, in a thread of the ledger's own."""
        return await self._in_thread(self._engine, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work`, which only reads, in one transaction: all of it sees the same moment."""
        return await self._in_thread(self._reader, work)

    def now(self, connection: Connection) -> datetime:
        """Return the time by which leases and locks are kept: on PostgreSQL the server's."""
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
        """Let the threads end what was asked of them, and close every connection."""
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
        def ask() -> asyncio.Future[T]:
            loop = asyncio.get_running_loop()
            return loop.run_in_executor(self._threads, self.transact, work, engine)

        # What was learnt is written down even when whoever learnt it is being cancelled.
        return await asyncio.shield(asyncio.ensure_future(self._answer(ask(), ask)))

    async def _answer(self, asked: asyncio.Future[T], ask: Callable[[], asyncio.Future[T]]) -> T:
        """Await the answer; ask again for as long as there is patience."""
        failing_since: float | None = None

        def is_hopeless(state: RetryCallState) -> bool:
            nonlocal failing_since
            failing_since = failing_since or time.monotonic()
            return self._patience_left(failing_since, state) <= 0

        tries = AsyncRetrying(
            retry=retry_if_exception_type(_Away), stop=is_hopeless, wait=_PAUSES, reraise=True
        )
        async for attempt in tries:
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    if self._closed:
                        raise self._unusable("it was closed while it was waited for")
                    asked = ask()
                answer = await asked
        if self._away_since is not None:
            self._away_since = None
            tell(Note(f"The ledger {self._shown} answers again"))
        return answer

    def _patience_left(self, failing_since: float, state: RetryCallState) -> float:
        """Return the seconds for which it is still worth asking.

        Nothing is owed yet to one that has never answered, and its URL may be wrong. What always
        fails, while all else is answered, is not asked about for ever either.
        """
        if not self._ready or self._closed:
            return 0
        if self._away_since is None:
            self._away_since = failing_since
            reason = state.outcome and state.outcome.exception()
            tell(Note(f"{getattr(reason, 'message', reason)}; waiting for it"))
        return self.patience - (time.monotonic() - min(self._away_since, failing_since))

    def transact(self, work: Callable[[Connection], T], engine: Engine | None = None) -> T:
        """Do `work` in one transaction, in this thread; one that writes, unless `engine` reads."""
        try:
            if not self._ready:
                bring_up_to_date(self._reader, self._engine)
                self._ready = True
            with (engine or self._engine).begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if (reason := _away(error)) is not None:
                raise self._unusable(reason, _Away) from error
            if self._ready and not self._as_it_is:
                # Its tables are gone where it was moved while this process had it open.
                with suppress(DBAPIError), self._reader.begin() as connection:
                    _revision(connection)
            # Everything else that a driver raises is a defect, and keeps its traceback.
            if _is_wrong(error):
                raise self._unusable(error.orig or error) from error
            raise

    def _unusable(self, reason: object, kind: type[Unreachable] = Unreachable) -> Unreachable:
        hint = "Nothing is submitted without it. It is set by COMFYLINE_LEDGER_URL, `ledger` in "
        hint += "the profile, or COMFYLINE_HOME."
        if kind is _Away and self._ready:
            hint = "Nothing that was paid for is lost. Run again once it is back."
        elif "unsupported startup parameter" in str(reason):
            hint = "PgBouncer takes no `options` in the URL: set for the database's user what they "
            hint += "ask for (ALTER ROLE … SET search_path = …), and leave them out."
        return kind(f"The ledger {self._shown} cannot be used: {reason}", hint=hint)


def _away(error: DBAPIError) -> str | None:
    """Say why a database may answer in a moment; None where waiting mends nothing."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        # A module that SQLite could not load, for one, has no code.
        reason = _AWAY_FILE.get(getattr(cause, "sqlite_errorcode", 0) & _PRIMARY_CODE)
        return reason and f"{reason} ({cause})"
    state = getattr(cause, "sqlstate", None)
    if state is None:
        # No server has said it: the connection broke, or none was made.
        away = isinstance(error, OperationalError | InterfaceError)
    else:
        away = state in _AWAY_STATES or state[:2] in _AWAY_CLASSES
    return " ".join(str(cause).split()) if away else None


def _is_wrong(error: DBAPIError) -> bool:
    """Return whether a person set the database up so that it cannot be used."""
    if getattr(error.orig, "sqlstate", None) in _WRONG_STATES:
        return True
    of_the_database = isinstance(error, OperationalError | InterfaceError | InternalError)
    return of_the_database or type(error) is DatabaseError


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _wrong("it is not a database URL") from None
    # Without a driver named, the one that comes with comfyline.
    plain = parsed.drivername in {"postgres", "postgresql"}
    return parsed.set(drivername="postgresql+psycopg") if plain else parsed


def _wrong(message: str) -> InputInvalid:
    """Report a wrong URL without repeating it: it may hold a password."""
    hint = "write sqlite:////folder/ledger.sqlite3 or postgresql://user:password@host/database"
    return InputInvalid([Problem("the ledger's URL", message, hint)])


def _engine(url: URL, *, sqlite: bool) -> Engine:
    arguments: dict[str, Any] = {}
    if sqlite:
        arguments = {"timeout": _BUSY_SECONDS}
    elif url.get_backend_name() == "postgresql":
        # What the URL itself asks for, a schema perhaps, is not to be lost.
        arguments = {name: url.query.get(name, usual) for name, usual in _CONNECTING.items()}
        if isinstance(options := url.query.get("options"), tuple):
            arguments["options"] = " ".join(options)
    try:
        engine = create_engine(
            url, hide_parameters=True, connect_args=arguments, pool_pre_ping=not sqlite
        )
    except (ArgumentError, ImportError) as error:
        raise _wrong(f"{url.drivername} cannot be used here: {error}") from error
    if engine.dialect.is_async:
        raise _wrong(f"{url.drivername} is an asynchronous driver, and the ledger needs another")
    if sqlite:
        event.listen(engine, "connect", _prepare_file)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare_file(connection: Any, _record: Any) -> None:
    # Transactions begin in `_begin`; the driver must not begin any.
    connection.isolation_level = None
    _switch_to_wal(connection)
    # A commit that power loss can undo would forget a request id that was paid for.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _is_busy(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & _PRIMARY_CODE == sqlite3.SQLITE_BUSY


@retry(
    retry=retry_if_exception(_is_busy),
    stop=stop_after_delay(_BUSY_SECONDS),
    wait=wait_fixed(0.02),
    reraise=True,
)
def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Wait: of two that switch a new file at once, SQLite refuses one immediately."""
    connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READING)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        # In one go, so that it takes the time of one question.
        alone = "" if reads else f"; {WRITE_LOCK}"
        connection.exec_driver_sql(f"{_FOR_THIS_TRANSACTION}{alone}")


def bring_up_to_date(reader: Engine, writer: Engine) -> None:
    """Make or migrate the tables; a ledger that is up to date is only looked at.

    Raises `Unreachable` for a ledger that a newer comfyline has migrated, and one that is closed.
    """
    with reader.begin() as connection:
        if _revision(connection) == newest_revision():
            return
    # Under the write lock it is looked again: of two that open it at once, one migrates.
    with writer.begin() as connection:
        if _revision(connection) != newest_revision():
            migrate(connection)


def newest_revision() -> str:
    """Return the schema that this comfyline writes."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    return sorted(path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/0*.py"))


def read_revision(connection: Connection) -> str | None:
    """Return the schema that a database has, `MOVED` or `MOVING`; None where it has no ledger."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _revision(connection: Connection) -> str | None:
    revision = read_revision(connection)
    if revision == MOVED:
        raise LedgerMoved(connection.execute(text("SELECT place FROM moved")).scalar_one())
    if revision == MOVING:
        raise Unreachable(
            "A ledger is being moved here, which has not come to its end",
            hint="Say `comfyline ledger move` again, with the URL of the old ledger set as before.",
        )
    if revision is not None and revision not in _revisions():
        raise Unreachable(
            f"The ledger was made by a newer comfyline (its schema is {revision})",
            hint="Upgrade comfyline on this machine.",
        )
    return revision


def migrate(connection: Connection) -> None:
    """Make or migrate the tables in the transaction of a connection."""
    # Imported late: it takes longer than most commands, and is needed once in a ledger's life.
    command = importlib.import_module("alembic.command")
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")


def _make_private(file: Path) -> None:
    """Make a new database its owner's alone; SQLite gives its journals the same mode."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not (file.exists() or file.name.startswith((":", "file:"))):
        file.touch(mode=0o600)


def _refuse_network_disk(file: Path) -> None:
    mounts: list[tuple[str, str]] = []
    folder = file.absolute().parent.resolve()
    # A container may hide the table, and then nobody can say.
    with suppress(OSError):
        mounts = [(one.mountpoint, one.fstype) for one in psutil.disk_partitions(all=True)]
    if (kind := network_file_system(str(folder), mounts)) is not None:
        message = f"it is on a network file system ({kind}), where the locks of SQLite do not "
        message += "hold between machines, and a job could be paid for twice"
        hint = "set COMFYLINE_LEDGER_URL to a PostgreSQL database, which several machines may "
        hint += "share, or COMFYLINE_HOME to a folder on a disk of this machine"
        raise InputInvalid([Problem(f"the ledger {file}", message, hint)])


def network_file_system(folder: str, mounts: Iterable[tuple[str, str]]) -> str | None:
    """Return the network file system that an absolute folder lies on; None for a local one.

    `mounts` is the table of mounts, each a point and a kind: of two at one point the later hides
    the earlier. What is not known counts as local.
    """
    path, nearest, found = PurePosixPath(folder), -1, ""
    for point, kind in mounts:
        if path.is_relative_to(point) and (depth := len(PurePosixPath(point).parts)) >= nearest:
            nearest, found = depth, kind
    kind = found.lower()
    # mount.fuse lets a program call itself what it likes: `fuse.sshfs`, `fuse.rclone`, `s3fs`.
    is_network = kind in _NETWORK.split() or kind.removeprefix("fuse.") in _FUSE.split()
    return found if is_network else None
