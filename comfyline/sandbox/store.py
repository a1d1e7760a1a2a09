"""What the sandbox remembers: every request with its status, its times and its charge.

SQLite in WAL mode: a transaction that was committed outlives the process, however it ends. Each
method is one transaction. The methods block, so the event loop calls them in a thread.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import Connection, Row

Clock = Callable[[], float]
"""Seconds since the epoch, UTC."""

RETENTION = 7 * 24 * 3600.0

_METADATA = MetaData()
_REQUESTS = Table(
    "requests",
    _METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String, nullable=False, unique=True),
    Column("model_id", String, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("input", JSON, nullable=False),
    Column("price_usd", Float, nullable=False),
    Column("charge_usd", Float),
    Column("once", Boolean, nullable=False, default=False),
    Column("expired", Boolean, nullable=False, default=False),
    Column("files", JSON, nullable=False, default=list),
    Column("error", String),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
)

# A table of its own, so that a state of before it had one goes on being read.
_FETCHES = Table(
    "fetches",
    _METADATA,
    Column("number", Integer, primary_key=True),
    Column("url", String, primary_key=True),
    Column("fetched_at", Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `once` means sync mode: its `files` are handed over once and then forgotten."""

    number: int
    request_id: str
    model_id: str
    status: str
    input: dict[str, Any]
    price_usd: float
    charge_usd: float | None
    once: bool
    expired: bool
    files: tuple[str, ...]
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class GenerationFailed(Exception):
    """The request was accepted and cannot be fulfilled; the message is for the caller."""


class Store:
    """The requests in `sandbox.sqlite3` under the state directory."""

    def __init__(self, directory: Path, clock: Clock = time.time) -> None:
        self._clock = clock
        # SQLite knows one writer at a time; waiting here is cheaper than its busy loop.
        self._writing = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(
            f"sqlite:///{directory / 'sandbox.sqlite3'}", connect_args={"timeout": 10}
        )
        event.listen(self._engine, "connect", _prepare)
        _METADATA.create_all(self._engine)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def add(
        self,
        request_id: str,
        *,
        model_id: str,
        inputs: Mapping[str, Any],
        price_usd: float,
        once: bool,
    ) -> None:
        """Take a request into the queue."""
        with self._writing, self._engine.begin() as db:
            db.execute(
                _REQUESTS.insert().values(
                    request_id=request_id,
                    model_id=model_id,
                    status="in_queue",
                    input=dict(inputs),
                    price_usd=price_usd,
                    once=once,
                    expired=False,
                    files=[],
                    created_at=self._clock(),
                )
            )

    def recover(self) -> int:
        """Put what was in progress when the process died back to its place in the queue.

        Returns how many requests wait. Nothing of theirs was charged yet: the charge is written
        together with the completion.
        """
        with self._writing, self._engine.begin() as db:
            db.execute(
                _REQUESTS.update()
                .where(_REQUESTS.c.status == "in_progress")
                .values(status="in_queue", started_at=None)
            )
            return _count(db, _REQUESTS.c.status == "in_queue")

    def claim(self) -> Request | None:
        """Take the request that has waited longest into progress."""
        with self._writing, self._engine.begin() as db:
            row = db.execute(
                select(_REQUESTS)
                .where(_REQUESTS.c.status == "in_queue")
                .order_by(_REQUESTS.c.number)
                .limit(1)
            ).first()
            if row is None:
                return None
            db.execute(
                _REQUESTS.update()
                .where(_REQUESTS.c.number == row.number)
                .values(status="in_progress", started_at=self._clock())
            )
            return _request_of(row)

    def fetched(self, request: Request, url: str) -> None:
        """Note when an input was fetched, under its URL without the query."""
        row = {
            "number": request.number,
            "url": without_queries(url),
            "fetched_at": self._clock(),
        }
        with self._writing, self._engine.begin() as db:
            db.execute(_FETCHES.insert().prefix_with("OR REPLACE"), row)

    def fetches(self) -> dict[int, dict[str, float]]:
        """Return when each input of each request was fetched, by the request's number and URL."""
        found: dict[int, dict[str, float]] = {}
        with self._engine.connect() as db:
            for row in db.execute(select(_FETCHES).order_by(_FETCHES.c.fetched_at)):
                found.setdefault(row.number, {})[row.url] = row.fetched_at
        return found

    def complete(self, request: Request, files: list[str], charge_usd: float | None = None) -> None:
        """End a request well, and charge it in the same transaction: its price, or another."""
        charge = request.price_usd if charge_usd is None else charge_usd
        self._finish(request, status="completed", files=files, charge_usd=charge)

    def fail(self, request: Request, error: str) -> None:
        """End a request badly; it costs nothing."""
        self._finish(request, status="failed", error=error)

    def _finish(self, request: Request, **values: Any) -> None:
        with self._writing, self._engine.begin() as db:
            db.execute(
                _REQUESTS.update()
                .where(_REQUESTS.c.number == request.number, _REQUESTS.c.status == "in_progress")
                .values(finished_at=self._clock(), input=without_queries(request.input), **values)
            )

    def cancel(self, request_id: str) -> bool:
        """Cancel a request that still waits; say whether it did."""
        with self._writing, self._engine.begin() as db:
            done = db.execute(
                _REQUESTS.update()
                .where(_REQUESTS.c.request_id == request_id, _REQUESTS.c.status == "in_queue")
                .values(status="cancelled", finished_at=self._clock())
            )
            return done.rowcount == 1

    def forget_files(self, request_id: str) -> None:
        """Note that the outputs of a request are no longer kept."""
        self._update(request_id, files=[])

    def expire(self, request_id: str) -> bool:
        """Let a request be older than the retention, now."""
        return self._update(request_id, files=[], expired=True)

    def _update(self, request_id: str, **values: Any) -> bool:
        with self._writing, self._engine.begin() as db:
            done = db.execute(
                _REQUESTS.update().where(_REQUESTS.c.request_id == request_id).values(**values)
            )
            return done.rowcount == 1

    def find(self, request_id: str) -> Request | None:
        """Find a request that is known and not yet past the retention."""
        with self._engine.connect() as db:
            row = db.execute(select(_REQUESTS).where(_REQUESTS.c.request_id == request_id)).first()
        if row is None or row.expired:
            return None
        if row.finished_at is not None and row.finished_at + RETENTION < self._clock():
            return None
        return _request_of(row)

    def position(self, request: Request) -> int:
        """Count the requests that start before this one: 0 is the next to start."""
        with self._engine.connect() as db:
            return _count(db, _REQUESTS.c.status == "in_queue", _REQUESTS.c.number < request.number)

    def all(self) -> list[Request]:
        """Return every request ever accepted, in the order of arrival, also the expired ones."""
        with self._engine.connect() as db:
            rows = db.execute(select(_REQUESTS).order_by(_REQUESTS.c.number)).all()
        return [_request_of(row) for row in rows]

    def charged(self) -> float:
        """Sum up all charges in USD."""
        with self._engine.connect() as db:
            total = db.execute(select(func.coalesce(func.sum(_REQUESTS.c.charge_usd), 0.0)))
            return round(float(total.scalar_one()), 6)


def request_ids(directory: Path) -> frozenset[str]:
    """Return the ids of all requests that a sandbox with this state ever accepted."""
    if not (directory / "sandbox.sqlite3").is_file():
        return frozenset()
    store = Store(directory)
    try:
        return frozenset(request.request_id for request in store.all())
    finally:
        store.close()


def _prepare(connection: Any, _record: Any) -> None:
    # NORMAL loses nothing when the process is killed, only when the machine is.
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"):
        connection.execute(statement)


def _count(db: Connection, *where: Any) -> int:
    return int(db.execute(select(func.count()).select_from(_REQUESTS).where(*where)).scalar_one())


def without_queries(value: Any) -> Any:
    """Cut the query off every URL: what signs a presigned URL is nobody's to keep."""
    if isinstance(value, Mapping):
        return {key: without_queries(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_queries(part) for part in value]
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        try:
            return urlunsplit((*urlsplit(value)[:3], "", ""))
        except ValueError:
            return value.partition("?")[0]
    return value


def _request_of(row: Row[Any]) -> Request:
    """Turn a row of the requests into a value."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return Request(**{**values, "files": tuple(values["files"])})
