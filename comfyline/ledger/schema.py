"""Brings a ledger's tables up to date, once, however many processes open it at the same time."""

import importlib
import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from comfyline.errors import Unreachable

HEAD = "0003"
"""The newest revision in `migrations/versions`; a test holds the two together."""

_FIRST = "0001"
_KNOWN = {_FIRST, "0002", HEAD}
_MIGRATIONS = Path(__file__).with_name("migrations")
_ONE_AT_A_TIME = threading.Lock()
"""What alembic gives `env.py` is one for the whole process, whichever database it is about."""


def bring_up_to_date(reader: Engine, writer: Engine) -> None:
    """Makes or migrates the tables; a ledger that is up to date is only looked at.

    Raises `Unreachable` for a ledger that a newer comfyline has migrated.
    """
    with reader.begin() as connection:
        if _revision(connection) == HEAD:
            return
    # Under the write lock it is looked again: of two that open it at once, one migrates.
    with writer.begin() as connection, _ONE_AT_A_TIME:
        if _revision(connection) != HEAD:
            _migrate(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and revision not in _KNOWN:
        raise Unreachable(
            f"The ledger was made by a newer comfyline (its schema is {revision})",
            hint="Upgrade comfyline on this machine.",
        )
    return str(revision) if revision is not None else None


def _migrate(connection: Connection) -> None:
    # Imported late: it takes longer than most commands, and is needed once in a ledger's life.
    command = importlib.import_module("alembic.command")
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    from_before_migrations = inspect(connection).has_table("attempts")
    if _revision(connection) is None and from_before_migrations:
        command.stamp(config, _FIRST)
    command.upgrade(config, "head")
