"""The database itself: busy, broken, out of reach, or asked by somebody who is being cancelled."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, make_url, select, text

from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import JobState
from comfyline.ledger.claims import Claimed
from comfyline.ledger.database import Database
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.tables import attempts
from tests.conftest import free_port
from tests.ledger.conftest import Clock, Desk, asked, locked, output
from tests.ledger.proxy import proxy


async def ask(url: str, statement: str) -> None:
    """Says something to a PostgreSQL server beside the ledger."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def value(url: str, *questions: str) -> list[Any]:
    database = Database(url)
    values = [
        await database.read(lambda c, q=question: c.execute(text(q)).scalar_one())
        for question in questions
    ]
    database.close()
    return values


async def test_a_commit_survives_power_loss_also_where_the_servers_default_is_another(
    postgresql_database: str, tmp_path: Path
):
    questions = "PRAGMA journal_mode", "PRAGMA synchronous", "PRAGMA foreign_keys"
    full = 2
    assert await value(f"sqlite:///{tmp_path / 'l.sqlite3'}", *questions) == ["wal", full, 1]
    name = make_url(postgresql_database).database
    await ask(postgresql_database, f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert await value(postgresql_database, "SHOW synchronous_commit") == ["on"]


async def test_the_schema_that_a_url_names_is_used(postgresql_database: str, clock: Clock):
    await ask(postgresql_database, "CREATE SCHEMA elsewhere")
    url = make_url(postgresql_database).update_query_dict({"options": "-csearch_path=elsewhere"})
    ledger = Ledger(url.render_as_string(hide_password=False), "here:1", clock)
    await Desk(ledger).claimed(asked())
    ledger.close()
    [count] = await value(postgresql_database, "SELECT count(*) FROM elsewhere.attempts")
    assert count == 1


async def test_a_pooler_between_finds_nothing_that_belongs_to_a_session(
    postgresql_database: str, clock: Clock
):
    """PgBouncer hands each transaction to any session, and takes no options for one."""
    with proxy(postgresql_database) as between:
        ledger = Ledger(between.url, "here:1", clock)
        desk = Desk(ledger)
        for number in range(8):
            await desk.stored(asked(f"{number}"), output(f"file:///out/{number}.png"))
            await ledger.list()
        assert b"user\0" in between.hello
        assert b"options\0" not in between.hello
        kept = "SELECT count(*) FROM pg_prepared_statements"
        asked_for = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name IN "
        asked_for += "('synchronous_commit', 'lock_timeout', 'idle_in_transaction_session_timeout')"
        # Of these three each transaction sets its own, which counts as the session's until its end.
        for question, count in ((kept, 0), (asked_for, 3)):
            answer = await ledger.database.read(lambda c, q=question: c.execute(text(q)).scalar())
            assert answer == count
        ledger.close()


async def test_all_ages_are_by_the_servers_clock_in_utc(postgresql_database: str):
    """Whatever this machine takes for the time of day: an hour behind is as well an hour ahead."""
    name = make_url(postgresql_database).database
    ago = "AS $$ SELECT pg_catalog.clock_timestamp() - interval '1 hour' $$"
    for statement in (
        "CREATE SCHEMA behind",
        f"CREATE FUNCTION behind.clock_timestamp() RETURNS timestamptz LANGUAGE sql {ago}",
        f"ALTER DATABASE {name} SET search_path = behind, pg_catalog, public",
        f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'",
    ):
        await ask(postgresql_database, statement)
    ledger = Ledger(postgresql_database, "here:1")
    await Desk(ledger).claimed(asked())
    claimed_at, clock = (await Desk(ledger).known(asked())).claimed_at, await ledger.clock()
    ledger.close()
    assert claimed_at is not None
    assert abs(datetime.now(UTC) - timedelta(hours=1) - claimed_at) < timedelta(minutes=1)
    assert abs(clock() - claimed_at) < timedelta(minutes=1)
    assert claimed_at.tzname() == "UTC"


async def test_a_reading_sees_one_moment_although_somebody_writes_meanwhile(
    desk: Desk, ledger: Ledger, url: str
):
    attempt_id = await desk.claimed(asked())
    reader = Database(url)
    looked, written = threading.Event(), threading.Event()

    def look_twice(connection: Connection) -> list[str]:
        state = select(attempts.c.state)
        first = connection.execute(state).scalar_one()
        looked.set()
        assert written.wait(10)
        return [first, connection.execute(state).scalar_one()]

    looking = asyncio.create_task(reader.read(look_twice))
    await asyncio.to_thread(looked.wait, 10)
    await ledger.accepted(attempt_id, "r-1")
    written.set()
    assert await looking == ["submitting", "submitting"]
    reader.close()


async def test_a_server_that_is_away_is_said_without_its_password(clock: Clock):
    ledger = Ledger(f"postgresql://me:SECRET@127.0.0.1:{free_port()}/ledger", "here:1", clock)
    with pytest.raises(Unreachable, match=r"me:\*\*\*@.* cannot be used: .*refused") as error:
        await ledger.find(["k"])
    ledger.close()
    assert (error.value.exit_code, "SECRET" in str(error.value)) == (69, False)


async def test_a_locked_ledger_is_waited_for_while_the_event_loop_runs_on(desk: Desk, url: str):
    await desk.claimed(asked("one"))
    with locked(url):
        claiming = asyncio.create_task(desk.claim(asked("two")))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not claiming.done()
    assert isinstance(await claiming, Claimed)


async def test_reading_waits_for_nobody(desk: Desk, url: str, there: Desk):
    await desk.claimed(asked())
    with locked(url):
        assert await there.state(asked()) is JobState.SUBMITTING


async def test_a_claim_that_nobody_hears_of_any_more_is_given_back(desk: Desk, url: str):
    job = asked()
    await desk.claimed(asked("other"))
    with locked(url):
        claiming = asyncio.create_task(desk.claim(job))
        await asyncio.sleep(0.05)
        claiming.cancel()
        await asyncio.sleep(0.05)
        assert not claiming.done()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    assert await desk.state(job) is JobState.PLANNED


async def test_what_was_learnt_is_written_down_although_the_asker_is_cancelled(
    desk: Desk, ledger: Ledger, url: str
):
    job = asked()
    attempt_id = await desk.claimed(job)
    with locked(url):
        writing = asyncio.create_task(ledger.accepted(attempt_id, "r-1"))
        await asyncio.sleep(0.05)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    ledger.close()
    again = Ledger(url, "here:2")
    assert (await Desk(again).known(job)).request_id == "r-1"
    again.close()


async def test_a_failure_in_the_middle_leaves_nothing_half_done(
    desk: Desk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr("comfyline.ledger.claims.Claimed", fails)
        with pytest.raises(RuntimeError):
            await desk.claim(asked())
    assert not await ledger.list()
    claim = await desk.claim(asked())
    assert isinstance(claim, Claimed)
    assert claim.number == 1


@pytest.mark.parametrize(
    "content", [b"no database at all\n" * 100, b"SQLite format 3\0" + b"x" * 99]
)
async def test_a_file_that_is_no_database_is_said_in_words(
    content: bytes, tmp_path: Path, clock: Clock
):
    file = tmp_path / "no.db"
    await asyncio.to_thread(file.write_bytes, content)
    ledger = Ledger(f"sqlite:///{file}", "here:1", clock)
    for work in (ledger.find(["k"]), ledger.end_dead_leases()):
        with pytest.raises(Unreachable, match=r"ledger sqlite:.* cannot be used: .*database") as e:
            await work
        assert e.value.exit_code == 69
    ledger.close()


async def test_a_file_that_cannot_be_made_or_opened_is_said_in_words(tmp_path: Path, clock: Clock):
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match=r"cannot be used.*COMFYLINE_LEDGER_URL"):
        Ledger(f"sqlite:///{tmp_path / 'file' / 'deeper' / 'l.db'}", "here:1", clock)
    ledger = Ledger(f"sqlite:///{tmp_path}", "here:1", clock)
    with pytest.raises(Unreachable, match="unable to open"):
        await Desk(ledger).claim(asked())
    ledger.close()


@pytest.mark.parametrize(
    "url", ["", "rubbish", "sqlite", "nosuch://u:SECRET@h/x", "postgresql+nosuch://u:SECRET@h/x"]
)
def test_a_url_that_names_no_usable_database_is_said_without_its_password(url: str, clock: Clock):
    with pytest.raises(InputInvalid, match="write sqlite:") as error:
        Ledger(url, "here:1", clock)
    assert "SECRET" not in str(error.value)
    with pytest.raises(InputInvalid, match="asynchronous driver"):
        Ledger("postgresql+asyncpg://u:SECRET@h/x", "here:1", clock)


async def test_closing_waits_for_what_is_being_written(url: str, clock: Clock):
    ledger = Ledger(url, "here:1", clock)
    asking = asyncio.create_task(Desk(ledger).claim(asked()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ledger.close()
    again = Ledger(url, "here:2", clock)
    assert await Desk(again).state(asked()) is JobState.SUBMITTING
    again.close()
    assert isinstance(await asking, Claimed)
