"""The ledger's tables. A job is known by its key; each time it is asked for anew is an attempt."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

T = TypeVar("T")

metadata = MetaData()


def in_batches(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """Yield some values at a time: an IN list has a limit in every database."""
    return (values[start : start + size] for start in range(0, len(values), size))


class UtcTime(TypeDecorator[datetime]):
    """Points in time, aware and in UTC on both sides (SQLite keeps no time zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy's signature
        """Refuse a naive time: its zone would be a guess."""
        if value is not None and value.tzinfo is None:
            raise ValueError("the ledger takes aware times only")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back that SQLite dropped; PostgreSQL answers in a zone of its own."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text for people. A file name that is not UTF-8 is shown with escapes, and stops nothing."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Escape what no database takes."""
        if not value:
            return value
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class Document(TypeDecorator[Any]):
    """JSON. What cannot be read is None: a row that somebody has broken must not hide all others.

    It is written in ASCII, so that what no database takes in a text, a NUL or a file name that is
    not UTF-8, comes out as it went in. PostgreSQL itself cannot look into such a document.
    """

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read what the driver gives, where it is JSON at all."""
        read = super().result_processor(dialect, coltype)
        return read and partial(_or_none, read)


def _or_none(read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except ValueError:
        return None


jobs = Table(
    "jobs",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("model_id", String, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    # Where versions before accounts hold jobs; kept for those that run beside this one.
    Column("held_by", String),
    Column("held_until", UtcTime),
    Index("jobs_by_holder", "held_by"),
)

holds = Table(
    "holds",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("origin", String, primary_key=True),
    Column("account", String, primary_key=True),
    # Who walks the job right now, and until when that is believed.
    Column("held_by", String, nullable=False, index=True),
    Column("held_until", UtcTime, nullable=False),
)

paces = Table(
    "paces",
    metadata,
    Column("origin", String, primary_key=True),
    Column("account", String, primary_key=True),
    # When the account's next submission may leave, and when that was written down.
    Column("next_at", UtcTime, nullable=False),
    Column("noted_at", UtcTime, nullable=False),
)

waiting = Table(
    "waiting",
    metadata,
    Column("origin", String, primary_key=True),
    Column("account", String, primary_key=True),
    # In which process jobs of a share wait for a slot, and until when that is believed.
    Column("worker_id", String, primary_key=True),
    Column("share", Words, primary_key=True),
    Column("waits_until", UtcTime, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    # What tells this ledger from one that was made anew: its row numbers begin again.
    Column("id", String(32), primary_key=True),
)

journals = Table(
    "journals",
    metadata,
    # A journal of accepted requests, and how far it has been compared with this ledger.
    Column("id", String(32), primary_key=True),
    Column("compared", JSON, nullable=False),
)

SUMMED = ("state", "error_kind", "cost_usd", "reserved_usd", "estimate_usd")

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", ForeignKey("jobs.key"), nullable=False),
    # Counted over all accounts.
    Column("number", Integer, nullable=False),
    # Whose it is; null where a version before accounts wrote it, and nothing has told since.
    Column("origin", String),
    Column("account", String),
    # How people reach that account, for hints.
    Column("profile", Words),
    Column("state", String(16), nullable=False),
    Column("pipeline", Words, nullable=False),
    Column("item", Words, nullable=False),
    Column("step", Words, nullable=False),
    # What the job asks for and where its outputs go, so that `reconcile` needs no YAML.
    Column("request", Document, nullable=False),
    # Whose it is, by name; null for none. Beside the request, so that a sum need not read it.
    Column("labels", Document(none_as_null=True)),
    Column("run_id", String, nullable=False),
    # Who may POST right now, and until when that is believed.
    Column("owner", String),
    Column("lease_until", UtcTime),
    # Until when it holds one of the profile's slots, should nobody see its end before.
    Column("slot_until", UtcTime),
    Column("request_id", String(128)),
    Column("estimate_usd", Float),
    # What the claim has set aside: the estimate, or the ceiling for a price that nobody knows.
    Column("reserved_usd", Float),
    Column("cost_usd", Float),
    Column("error_kind", String),
    Column("error_message", Words),
    # How far the POST got, and the balance around it: for the person who ends a doubt.
    Column("evidence", Document),
    Column("created_at", UtcTime, nullable=False),
    # When the intent was last committed; the POST leaves right after it.
    Column("claimed_at", UtcTime),
    Column("submitted_at", UtcTime),
    # How long it was in the queue and worked on, as well as looks at it tell.
    Column("queue_seconds", Float),
    Column("generation_seconds", Float),
    # Since when RunComfy has not known the request, without an answer in between that did.
    Column("missing_since", UtcTime),
    Column("updated_at", UtcTime, nullable=False),
    UniqueConstraint("key", "number"),
    Index("attempts_by_state", "state"),
    Index("attempts_by_request", "request_id", "origin", unique=True),
    # With all that a budget's sum reads: each claim sums up its run and its day.
    Index("attempts_by_run", "run_id", *SUMMED),
    Index("attempts_by_day", "pipeline", "claimed_at", "origin", "account", *SUMMED),
    Index("attempts_by_claim", "claimed_at"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("origin", String),
    Column("account", String),
    Column("pipeline", Words, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    # Since when it may submit nothing more.
    Column("stopped_at", UtcTime),
    # When it last ended with everything there.
    Column("completed_at", UtcTime),
)

savings = Table(
    "savings",
    metadata,
    # What a run did not pay again, one row for each model and its labels.
    Column("id", Integer, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("model_id", String, nullable=False),
    Column("labels", Document(none_as_null=True)),
    # Jobs whose outputs were there, and jobs that another process had submitted.
    Column("reused", Integer, nullable=False),
    Column("taken_over", Integer, nullable=False),
    # What these had cost, and how many of them have a cost that nobody knows.
    Column("cost_usd", Float, nullable=False),
    Column("cost_unknown", Integer, nullable=False),
)

shards = Table(
    "shards",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("of", Integer, nullable=False),
    # When the try of the run began that was cut.
    Column("began", UtcTime, nullable=False),
    # How often it was given to a worker, and as which flow run the last time.
    Column("tries", Integer, nullable=False),
    Column("flow_run_id", String),
    # Who works on it right now, and until when that is believed.
    Column("holder", String),
    Column("held_until", UtcTime),
    # Sums for whoever watches, and in the end what became of each job that was not there already.
    Column("progress", Document),
    Column("entries", Document),
    Column("ended_at", UtcTime),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("attempt_id", ForeignKey("attempts.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("at", UtcTime, nullable=False),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("attempt_id", ForeignKey("attempts.id"), nullable=False, index=True),
    Column("index", Integer, nullable=False),
    # One file is the output of one attempt: of the last that was stored there.
    Column("uri", String, nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),
    # SQLite's own integers are as long.
    Column("bytes", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("media_type", String, nullable=False),
)
