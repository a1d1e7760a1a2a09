"""Ages come from one clock, the ledger's: whatever this machine takes for the time of day."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from comfyline.config.account import Account
from comfyline.config.settings import RuncomfySettings, Settings, StorageSettings
from comfyline.ledger.ledger import Ledger
from comfyline.services import open_services
from tests.ledger.conftest import Desk, asked

HOUR = timedelta(hours=1)
SOON = timedelta(minutes=1)


@pytest.fixture
def an_hour_behind(postgresql_database: str) -> str:
    """A database whose clock is an hour behind this machine's, which is as well an hour ahead."""
    name = make_url(postgresql_database).database
    with psycopg.connect(postgresql_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA behind")
        connection.execute(
            "CREATE FUNCTION behind.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() - interval '1 hour' $$"
        )
        path = "behind, pg_catalog, public"
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = {path}')  # type: ignore[arg-type]
    return postgresql_database


async def test_the_clock_of_services_is_that_of_the_ledger(an_hour_behind: str, tmp_path: Path):
    account = Account("http://127.0.0.1:9")
    settings = Settings(
        profile="test",
        home=tmp_path,
        model_directories=(),
        runcomfy=RuncomfySettings("http://127.0.0.1:9", SecretStr("token"), (), 32, 5, 0, account),
        storage=StorageSettings("s3://bucket", "http://127.0.0.1:9", None, None, 60),
        ledger_url=SecretStr(an_hour_behind),
    )
    async with open_services(settings) as services:
        desk = Desk(services.ledger)
        await desk.submitted(asked())
        submitted_at = (await desk.known(asked())).submitted_at
        assert submitted_at is not None
        assert abs(datetime.now(UTC) - submitted_at - HOUR) < SOON
        assert abs(services.now() - submitted_at) < SOON


async def test_on_sqlite_it_is_the_machines(tmp_path: Path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", "here:1")
    clock = await ledger.clock()
    assert abs(clock() - datetime.now(UTC)) < SOON
    ledger.close()
