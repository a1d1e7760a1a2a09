"""What the sandbox remembers: every request with its status, its times and its charge.

SQLite in WAL mode: a transaction that was committed outlives the process, however it ends. Each
method is one transaction. The methods block, so the event loop calls them in a thread.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, func, select
from sqlalchemy.engine import Connection

from comfyline.sandbox.records import (
    FETCHES,
    METADATA,
    REQUESTS,
    Request,
    request_of,
    without_queries,
)

Clock = Callable[[], float]
"""Seconds since the epoch, UTC."""

RETENTION = 7 * 24 * 3600.0


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
        METADATA.create_all(self._engine)

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
                REQUESTS.insert().values(
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
                REQUESTS.update()
                .where(REQUESTS.c.status == "in_progress")
                .values(status="in_queue", started_at=None)
            )
            return _count(db, REQUESTS.c.status == "in_queue")

    def claim(self) -> Request | None:
        """Take the request that has waited longest into progress."""
        with self._writing, self._engine.begin() as db:
            row = db.execute(
                select(REQUESTS)
                .where(REQUESTS.c.status == "in_queue")
                .order_by(REQUESTS.c.number)
                .limit(1)
            ).first()
            if row is None:
                return None
            db.execute(
                REQUESTS.update()
                .where(REQUESTS.c.number == row.number)
                .values(status="in_progress", started_at=self._clock())
            )
            return request_of(row)

    def fetched(self, request: Request, url: str) -> None:
        """Note when an input was fetched, under its URL without the query."""
        row = {
            "number": request.number,
            "url": without_queries(url),
            "fetched_at": self._clock(),
        }
        with self._writing, self._engine.begin() as db:
            db.execute(FETCHES.insert().prefix_with("OR REPLACE"), row)

    def fetches(self) -> dict[int, dict[str, float]]:
        """Return when each input of each request was fetched, by the request's number and URL."""
        found: dict[int, dict[str, float]] = {}
        with self._engine.connect() as db:
            for row in db.execute(select(FETCHES).order_by(FETCHES.c.fetched_at)):
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
                REQUESTS.update()
                .where(REQUESTS.c.number == request.number, REQUESTS.c.status == "in_progress")
                .values(finished_at=self._clock(), input=without_queries(request.input), **values)
            )

    def cancel(self, request_id: str) -> bool:
        """Cancel a request that still waits; say whether it did."""
        with self._writing, self._engine.begin() as db:
            done = db.execute(
                REQUESTS.update()
                .where(REQUESTS.c.request_id == request_id, REQUESTS.c.status == "in_queue")
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
                REQUESTS.update().where(REQUESTS.c.request_id == request_id).values(**values)
            )
            return done.rowcount == 1

    def find(self, request_id: str) -> Request | None:
        """Find a request that is known and not yet past the retention."""
        with self._engine.connect() as db:
            row = db.execute(select(REQUESTS).where(REQUESTS.c.request_id == request_id)).first()
        if row is None or row.expired:
            return None
        if row.finished_at is not None and row.finished_at + RETENTION < self._clock():
            return None
        return request_of(row)

    def position(self, request: Request) -> int:
        """Count the requests that start before this one: 0 is the next to start."""
        with self._engine.connect() as db:
            return _count(db, REQUESTS.c.status == "in_queue", REQUESTS.c.number < request.number)

    def all(self) -> list[Request]:
        """Return every request ever accepted, in the order of arrival, also the expired ones."""
        with self._engine.connect() as db:
            rows = db.execute(select(REQUESTS).order_by(REQUESTS.c.number)).all()
        return [request_of(row) for row in rows]

    def charged(self) -> float:
        """Sum up all charges in USD."""
        with self._engine.connect() as db:
            total = db.execute(select(func.coalesce(func.sum(REQUESTS.c.charge_usd), 0.0)))
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
    return int(db.execute(select(func.count()).select_from(REQUESTS).where(*where)).scalar_one())
