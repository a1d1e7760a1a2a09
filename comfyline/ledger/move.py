"""Moving a ledger to another database: all of it or nothing, and then it is in one place only.

First the source is locked for writing, and nobody may be at work in it. In one transaction the
target gets the tables and the rows, is compared, and is marked as not to be used yet: a death
before that is committed leaves it empty. Then the source is closed, and told where it goes on: a
death before that is committed leaves it as it was, and the copy useless, which the next try makes
anew. Last the target is opened: a death before leaves both closed, and the next try opens it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

from sqlalchemy import Connection, Table, delete, func, insert, inspect, literal, select, text

from comfyline.errors import TryLater, UsageError
from comfyline.files import this_process
from comfyline.ledger.database import (
    MOVED,
    MOVING,
    Database,
    LedgerMoved,
    migrate,
    newest_revision,
    read_revision,
)
from comfyline.ledger.journal import place_of
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.tables import ledger as identity
from comfyline.ledger.tables import metadata

_AT_A_TIME = 500
_NAMED = 5
_CLOSE = (
    # A process that has it open can write nothing any more, nor can an older comfyline.
    "ALTER TABLE attempts RENAME TO attempts_moved",
    "CREATE TABLE moved (place TEXT NOT NULL)",
)


async def move(source_url: str, target_url: str) -> dict[str, int]:
    """Move the ledger at a URL to another; return how many rows of each table it has there.

    Said again after a death, it comes to the same. Raises `UsageError` for a target that is not
    empty, `TryLater` while somebody works with the source, and as `Database` does.
    """
    place = place_of(target_url)
    with (
        closing(Ledger(source_url, this_process(), patience=0)) as source,
        closing(Database(target_url, patience=0, as_it_is=True)) as target,
    ):
        try:
            await source.database.run(lambda c: _move(source, c, target, place))
        except LedgerMoved as moved:
            if moved.place != place:
                raise
        return await target.run(_open)


def _move(source: Ledger, connection: Connection, target: Database, place: str) -> None:
    if workers := source.find_workers(connection):
        raise TryLater(
            f"The ledger is in use by {', '.join(workers[:_NAMED])} (host:process)",
            hint="End those runs (`comfyline cancel --run ID`), or try again when they have ended: "
            "one that died is forgotten after a minute.",
        )
    _take_time(connection)
    target.transact(lambda there: _fill(connection, there, place))
    for statement in _CLOSE:
        connection.execute(text(statement))
    connection.execute(text("INSERT INTO moved VALUES (:place)"), {"place": place})
    _set_revision(connection, MOVED)


def _fill(source: Connection, target: Connection, place: str) -> None:
    """Copy all rows into tables that are made for them, and compare them there."""
    _take_time(target)
    _clear(target, place, _identity(source))
    migrate(target)
    for table in reversed(metadata.sorted_tables):
        target.execute(delete(table))
    copied = {
        table.name: _read(source, table, partial(target.execute, insert(table)))
        for table in metadata.sorted_tables
    }
    there = {table.name: _read(target, table) for table in metadata.sorted_tables}
    if differing := [name for name, found in copied.items() if there[name] != found]:
        raise RuntimeError(f"{place} does not give back what was written: {', '.join(differing)}")
    if target.dialect.name == "postgresql":
        for table in metadata.sorted_tables:
            if (number := table.autoincrement_column) is not None:
                sequence = func.pg_get_serial_sequence(table.name, number.name)
                target.execute(select(func.setval(sequence, func.max(number))))
    _set_revision(target, MOVING)


def _clear(target: Connection, place: str, source: str) -> None:
    """Take away an empty ledger, or the copy of this very one that was not ended."""
    tables = {table.name: table for table in metadata.sorted_tables}
    found = inspect(target).get_table_names()
    if read_revision(target) == MOVING:
        is_free = _identity(target) == source
    else:
        is_free = set(found) <= {*tables, "alembic_version"} and not any(
            target.execute(select(literal(1)).select_from(tables[name]).limit(1)).first()
            for name in found
            if name in tables and tables[name] is not identity
        )
    if not is_free:
        raise UsageError(
            f"{place} is not empty: it has the table{'s' * (len(found) != 1)} "
            f"{', '.join(sorted(found)[:_NAMED])}{' …' * (len(found) > _NAMED)}",
            hint="Name a database in which nothing is, or a file that is not there.",
        )
    metadata.drop_all(target)
    target.execute(text("DROP TABLE IF EXISTS alembic_version"))


def _read(
    connection: Connection,
    table: Table,
    write: Callable[[Sequence[Mapping[str, object]]], object] | None = None,
) -> tuple[int, int]:
    """Read a table and hand on its rows; return their number and a checksum, in any order."""
    number = checksum = 0
    found = connection.execute(select(table).execution_options(yield_per=_AT_A_TIME))
    for rows in found.partitions():
        for row in rows:
            digest = hashlib.sha256(repr(tuple(row)).encode("utf-8", "surrogatepass")).digest()
            checksum = (checksum + int.from_bytes(digest)) % 2**256
        number += len(rows)
        if write:
            write([row._asdict() for row in rows])
    return number, checksum


def _open(target: Connection) -> dict[str, int]:
    revision = read_revision(target)
    if revision is None:
        raise UsageError(
            "The ledger was moved there before, and nothing is there now",
            hint="Restore its backup there; the old one is as it was when it was moved.",
        )
    if revision == MOVING:
        _set_revision(target, newest_revision())
    return {
        table.name: target.execute(select(func.count()).select_from(table)).scalar_one()
        for table in metadata.sorted_tables
    }


def _identity(connection: Connection) -> str:
    found: str = connection.execute(select(identity.c.id)).scalar_one()
    return found


def _set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})


def _take_time(connection: Connection) -> None:
    """Let a transaction wait for the other one's work."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
