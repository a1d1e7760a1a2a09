"""What the sandbox remembers: every request with its status, its times and its charge.

SQLite in WAL mode: a transaction that was committed outlives the process, however it ends. Each
method is one transaction. The methods block, so the event loop calls them in a thread.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import JSON, ColumnElement, create_engine, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

Clock = Callable[[], float]
"""Seconds since the epoch, UTC."""

RETENTION = 7 * 24 * 3600.0


class _Base(DeclarativeBase):
    pass


class Request(_Base):
    """One request. `once` means sync mode: its `files` are handed over once and then forgotten."""

    __tablename__ = "requests"

    number: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(unique=True)
    model_id: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    input: Mapped[dict[str, Any]] = mapped_column(JSON)
    price_usd: Mapped[float]
    charge_usd: Mapped[float | None]
    once: Mapped[bool]
    expired: Mapped[bool]
    files: Mapped[list[str]] = mapped_column(JSON)
    error: Mapped[str | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class _Fetch(_Base):
    """When an input of a request was fetched. A table of its own, so that older states are read."""

    __tablename__ = "fetches"

    number: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(primary_key=True)
    fetched_at: Mapped[float]


class Unfulfillable(Exception):
    """The request was accepted and cannot be fulfilled; the message is for the caller."""


class Store:
    """The requests in `sandbox.sqlite3` under the state directory."""

    def __init__(self, directory: Path, clock: Clock = time.time) -> None:
        self._clock = clock
        # SQLite knows one writer at a time; waiting here is cheaper than its busy loop.
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(
            f"sqlite:///{directory / 'sandbox.sqlite3'}", connect_args={"timeout": 10}
        )
        event.listen(self._engine, "connect", _prepare)
        _Base.metadata.create_all(self._engine)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._lock, Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

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
        with self._writing() as session:
            session.add(
                Request(
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
        self._update(Request.status == "in_progress", status="in_queue", started_at=None)
        return self._count(Request.status == "in_queue")

    def claim(self) -> Request | None:
        """Take the request that has waited longest into progress."""
        waiting = select(Request).where(Request.status == "in_queue").order_by(Request.number)
        with self._writing() as session:
            request = session.scalar(waiting.limit(1))
            if request is not None:
                request.status, request.started_at = "in_progress", self._clock()
            return request

    def fetched(self, request: Request, url: str) -> None:
        """Note when an input was fetched, under its URL without the query."""
        fetch = _Fetch(number=request.number, url=without_queries(url), fetched_at=self._clock())
        with self._writing() as session:
            session.merge(fetch)

    def fetches(self) -> dict[int, dict[str, float]]:
        """Return when each input of each request was fetched, by the request's number and URL."""
        found: dict[int, dict[str, float]] = {}
        with Session(self._engine) as session:
            for fetch in session.scalars(select(_Fetch).order_by(_Fetch.fetched_at)):
                found.setdefault(fetch.number, {})[fetch.url] = fetch.fetched_at
        return found

    def complete(self, request: Request, files: list[str], charge_usd: float) -> None:
        """End a request well, and charge it in the same transaction."""
        self._finish(request, status="completed", files=files, charge_usd=charge_usd)

    def fail(self, request: Request, error: str) -> None:
        """End a request badly; it costs nothing."""
        self._finish(request, status="failed", error=error)

    def _finish(self, request: Request, **values: Any) -> None:
        mine = (Request.number == request.number) & (Request.status == "in_progress")
        kept = without_queries(request.input)
        self._update(mine, finished_at=self._clock(), input=kept, **values)

    def cancel(self, request_id: str) -> bool:
        """Cancel a request that still waits; say whether it did."""
        waiting = (Request.request_id == request_id) & (Request.status == "in_queue")
        return self._update(waiting, status="cancelled", finished_at=self._clock())

    def forget_files(self, request_id: str) -> None:
        """Note that the outputs of a request are no longer kept."""
        self._update(Request.request_id == request_id, files=[])

    def expire(self, request_id: str) -> bool:
        """Let a request be older than the retention, now."""
        return self._update(Request.request_id == request_id, files=[], expired=True)

    def _update(self, which: ColumnElement[bool], **values: Any) -> bool:
        with self._writing() as session:
            done = session.execute(update(Request).where(which).values(**values))
            return bool(done.rowcount)  # type: ignore[attr-defined]

    def find(self, request_id: str) -> Request | None:
        """Find a request that is known and not yet past the retention."""
        with Session(self._engine) as session:
            request = session.scalar(select(Request).where(Request.request_id == request_id))
        if request is None or request.expired:
            return None
        over = request.finished_at is not None and request.finished_at + RETENTION < self._clock()
        return None if over else request

    def position(self, request: Request) -> int:
        """Count the requests that start before this one: 0 is the next to start."""
        return self._count((Request.status == "in_queue") & (Request.number < request.number))

    def _count(self, which: ColumnElement[bool]) -> int:
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(Request).where(which)) or 0

    def all(self) -> list[Request]:
        """Return every request ever accepted, in the order of arrival, also the expired ones."""
        with Session(self._engine) as session:
            return list(session.scalars(select(Request).order_by(Request.number)))

    def charged(self) -> float:
        """Sum up all charges in USD."""
        with Session(self._engine) as session:
            return round(session.scalar(select(func.sum(Request.charge_usd))) or 0.0, 6)


def request_ids(directory: Path) -> frozenset[str]:
    """Return the ids of all requests that a sandbox with this state ever accepted."""
    if not (directory / "sandbox.sqlite3").is_file():
        return frozenset()
    store = Store(directory)
    try:
        return frozenset(request.request_id for request in store.all())
    finally:
        store.close()


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


def _prepare(connection: Any, _record: Any) -> None:
    # NORMAL loses nothing when the process is killed, only when the machine is.
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"):
        connection.execute(statement)
