"""What the sandbox remembers: every request with its status, its times and its charge.

SQLite in WAL mode: what a call has written outlives the process, however it ends. Each call takes
a fraction of a millisecond, so they are made on the event loop, and by it alone.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

Clock = Callable[[], float]
"""Seconds since the epoch, UTC."""

RETENTION = 7 * 24 * 3600.0

_FILE = "sandbox.sqlite3"
# NORMAL loses nothing when the process is killed, only when the machine is.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    model_id TEXT NOT NULL,
    status TEXT NOT NULL,
    input TEXT NOT NULL,
    price_usd REAL NOT NULL,
    charge_usd REAL,
    once INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    files TEXT NOT NULL,
    error TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
);
CREATE INDEX IF NOT EXISTS ix_requests_status ON requests (status);
CREATE TABLE IF NOT EXISTS fetches (
    number INTEGER NOT NULL,
    url TEXT NOT NULL,
    fetched_at REAL NOT NULL,
    PRIMARY KEY (number, url)
);
"""


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
    files: list[str]
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class Store:
    """The requests in `sandbox.sqlite3` under the state directory."""

    def __init__(self, directory: Path, clock: Clock = time.time) -> None:
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(directory / _FILE, timeout=10, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

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
        self._database.execute(
            "INSERT INTO requests (request_id, model_id, status, input, price_usd, once, expired,"
            " files, created_at) VALUES (?, ?, 'in_queue', ?, ?, ?, 0, '[]', ?)",
            (request_id, model_id, json.dumps(inputs), price_usd, once, self._clock()),
        )

    def recover(self) -> int:
        """Put what was in progress when the process died back to its place in the queue.

        Returns how many requests wait. Nothing of theirs was charged yet: the charge is written
        together with the completion.
        """
        self._update("status = ?", "in_progress", status="in_queue", started_at=None)
        return int(self._number("SELECT count(*) FROM requests WHERE status = 'in_queue'"))

    def claim(self) -> Request | None:
        """Take the request that has waited longest into progress."""
        row = self._database.execute(
            "SELECT * FROM requests WHERE status = 'in_queue' ORDER BY number LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        self._update("number = ?", row["number"], status="in_progress", started_at=self._clock())
        return _request(row)

    def fetched(self, request: Request, url: str) -> None:
        """Note when an input was fetched, under its URL without the query."""
        self._database.execute(
            "INSERT OR REPLACE INTO fetches VALUES (?, ?, ?)",
            (request.number, without_queries(url), self._clock()),
        )

    def fetches(self, request: Request) -> dict[str, float]:
        """Return when each input of a request was fetched, by its URL."""
        which = "SELECT url, fetched_at FROM fetches WHERE number = ? ORDER BY fetched_at"
        return dict(self._database.execute(which, (request.number,)).fetchall())

    def complete(self, request: Request, files: list[str], charge_usd: float) -> None:
        """End a request well, and charge it in the same moment."""
        self._end(request, status="completed", files=json.dumps(files), charge_usd=charge_usd)

    def fail(self, request: Request, error: str) -> None:
        """End a request badly; it costs nothing."""
        self._end(request, status="failed", error=error)

    def _end(self, request: Request, **values: Any) -> None:
        kept = json.dumps(without_queries(request.input))
        mine = "number = ? AND status = 'in_progress'"
        self._update(mine, request.number, finished_at=self._clock(), input=kept, **values)

    def cancel(self, request_id: str) -> None:
        """Cancel a request if it still waits."""
        waiting = "request_id = ? AND status = 'in_queue'"
        self._update(waiting, request_id, status="cancelled", finished_at=self._clock())

    def forget_files(self, request_id: str) -> None:
        """Note that the outputs of a request are no longer kept."""
        self._update("request_id = ?", request_id, files="[]")

    def expire(self, request_id: str) -> bool:
        """Let a request be older than the retention, now; say whether it is known."""
        return self._update("request_id = ?", request_id, files="[]", expired=True)

    def _update(self, which: str, parameter: Any, **values: Any) -> bool:
        columns = ", ".join(f"{name} = ?" for name in values)
        statement = f"UPDATE requests SET {columns} WHERE {which}"  # noqa: S608 - all of it ours
        return self._database.execute(statement, (*values.values(), parameter)).rowcount > 0

    def find(self, request_id: str) -> Request | None:
        """Find a request that is known and not yet past the retention."""
        known = (
            "SELECT * FROM requests WHERE request_id = ?1 AND NOT expired"
            " AND coalesce(finished_at, ?2) + ?3 >= ?2"
        )
        row = self._database.execute(known, (request_id, self._clock(), RETENTION)).fetchone()
        return _request(row) if row else None

    def position(self, request: Request) -> int:
        """Count the requests that start before this one: 0 is the next to start."""
        waiting = "SELECT count(*) FROM requests WHERE status = 'in_queue' AND number < ?"
        return int(self._number(waiting, request.number))

    def _number(self, query: str, *parameters: Any) -> Any:
        return self._database.execute(query, parameters).fetchone()[0]

    def all(self) -> list[Request]:
        """Return every request ever accepted, in the order of arrival, also the expired ones."""
        rows = self._database.execute("SELECT * FROM requests ORDER BY number")
        return [_request(row) for row in rows]

    def charged(self) -> float:
        """Sum up all charges in USD."""
        return round(float(self._number("SELECT total(charge_usd) FROM requests")), 6)


def _request(row: sqlite3.Row) -> Request:
    decoded = {"input": json.loads(row["input"]), "files": json.loads(row["files"])}
    return Request(**{**dict(row), **decoded, "once": bool(row["once"])})


def request_ids(directory: Path) -> frozenset[str]:
    """Return the ids of all requests that a sandbox with this state ever accepted."""
    if not (directory / _FILE).is_file():
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
