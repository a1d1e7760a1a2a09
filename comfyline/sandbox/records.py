"""What is remembered of a request: the tables, the value, and what is never written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, String, Table
from sqlalchemy.engine import Row

METADATA = MetaData()
REQUESTS = Table(
    "requests",
    METADATA,
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
FETCHES = Table(
    "fetches",
    METADATA,
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


def request_of(row: Row[Any]) -> Request:
    """Turn a row of the requests into a value."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return Request(**{**values, "files": tuple(values["files"])})
