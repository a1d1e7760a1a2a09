"""The schema: an older ledger is brought up to date without loss, a newer one is refused."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, MetaData, create_engine, insert, make_url, text

from comfyline.errors import Unreachable
from comfyline.job import JobState
from comfyline.ledger import database
from comfyline.ledger.attempts import Evidence, pack
from comfyline.ledger.claims import Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.tables import metadata
from tests.ledger.conftest import Clock, Desk, asked, output
from tests.ledger.processes import at_once, count

STATES = {
    "stored": JobState.PERSISTED,
    "waiting": JobState.IN_QUEUE,
    "doubted": JobState.IN_DOUBT,
    "sending": JobState.SUBMITTING,
    "never left": JobState.PLANNED,
}
"""The prompt of each job in an older ledger, and where its only attempt stands."""
KEYS = {prompt: asked(prompt).key for prompt in STATES}
WHEN = datetime(2026, 3, 1, 11, 30, tzinfo=UTC)


def fill(engine: Engine) -> None:
    """Writes one job of each of `STATES`, with what the first version wrote."""
    older = MetaData()
    older.reflect(engine)
    jobs, attempts = older.tables["jobs"], older.tables["attempts"]
    with engine.begin() as connection:
        for number, (prompt, state) in enumerate(STATES.items(), 1):
            key, is_accepted = KEYS[prompt], state in {JobState.PERSISTED, JobState.IN_QUEUE}
            request = pack(asked(prompt))
            del request["job"]["preparation"], request["job"]["checks"], request["job"]["part"]
            job = {"key": key, "model_id": "acme/painter", "created_at": WHEN}
            connection.execute(insert(jobs), job)
            attempt = {
                "id": number,
                "key": key,
                "number": 1,
                "state": state,
                **dict(zip(("pipeline", "item", "step"), ("scenes", "cat", "edit"), strict=True)),
                "request": request,
                "run_id": "run-0",
                "owner": "old:1",
                "lease_until": WHEN if state is JobState.SUBMITTING else None,
                "request_id": f"r-{number}" if is_accepted else None,
                "estimate_usd": 0.5,
                "created_at": WHEN,
                "submitted_at": WHEN if is_accepted else None,
                "updated_at": WHEN,
            }
            connection.execute(insert(attempts), attempt)
            step = {"attempt_id": number, "state": state, "at": WHEN}
            connection.execute(insert(older.tables["transitions"]), step)
        [stored] = [asdict(output())]
        del stored["width"], stored["height"], stored["duration"]
        connection.execute(insert(older.tables["outputs"]), stored | {"attempt_id": 1})
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER SEQUENCE attempts_id_seq RESTART WITH 9"))


@pytest.fixture
def engine(new_url: str) -> Iterator[Engine]:
    """The new database, without the ledger."""
    url = make_url(new_url)
    backend = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
    made = create_engine(url.set(drivername=backend[url.get_backend_name()]))
    yield made
    made.dispose()


@pytest.fixture(params=["0001", "0002", "0003"])
def old_url(request: pytest.FixtureRequest, new_url: str, engine: Engine) -> str:
    """A ledger of an earlier schema, with jobs in it."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, request.param)
    fill(engine)
    engine.dispose()
    return new_url


def differences(engine: Engine) -> list[object]:
    """What the tables are that the code does not know, or the other way round."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


async def test_an_older_ledger_is_opened_without_loss_and_goes_on_as_if_it_were_new(
    old_url: str, engine: Engine, clock: Clock
):
    ledger = Ledger(old_url, "here:1", clock)
    desk = Desk(ledger)
    found = await ledger.find(list(KEYS.values()))
    for prompt, state in STATES.items():
        known = found[KEYS[prompt]]
        assert known.checked == asked(prompt)
        assert known.reached == {state: WHEN}
        assert (known.state, known.run_id, known.created_at) == (state, "run-0", WHEN)
        assert known.claimed_at is known.reserved_usd is None
        assert known.evidence == Evidence()
    assert found[KEYS["stored"]].outputs == (output(),)
    assert [attempt.request_id for attempt in await ledger.unfinished()] == ["r-2"]
    decisions = {
        "stored": "REUSE",
        "waiting": "RESUME",
        "doubted": "BLOCKED",
        "sending": "BLOCKED",
        "never left": "CLAIMED",
    }
    assert {prompt: await desk.asks(asked(prompt)) for prompt in decisions} == decisions
    assert await ledger.acquire(KEYS["waiting"])
    # Four estimates of the first schema are set aside: all but of what never left.
    limits = Limits(1000, max_cost_usd=2.4)
    assert await desk.asks(asked("new"), "run-0", limits=limits) == "run has 2"
    ledger.close()
    assert differences(engine) == []


def test_of_several_processes_that_open_an_older_ledger_at_once_one_migrates_it(
    old_url: str, engine: Engine
):
    assert at_once(3, count, old_url) == [len(KEYS)] * 3
    assert differences(engine) == []


async def test_ledgers_opened_at_once_in_one_process_do_not_mix_their_migrations(tmp_path: Path):
    ledgers = [Ledger(f"sqlite:///{tmp_path / str(number)}", "here:1") for number in range(6)]
    assert await asyncio.gather(*(ledger.list() for ledger in ledgers)) == [[]] * 6
    for ledger in ledgers:
        ledger.close()


async def test_a_folder_with_a_percent_sign_is_no_riddle_for_the_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    odd = tmp_path / "100%(here)s"
    odd.symlink_to(database.MIGRATIONS)
    monkeypatch.setattr(database, "MIGRATIONS", odd)
    ledger = Ledger("sqlite://", "here:1")
    assert await ledger.list() == []
    ledger.close()


async def test_a_ledger_of_a_newer_comfyline_is_refused_in_words_and_left_as_it_is(
    new_url: str, engine: Engine
):
    ledger = Ledger(new_url, "here:1")
    await ledger.find([])
    ledger.close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    newer = Ledger(new_url, "here:1")
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"newer comfyline.*9999.*Upgrade") as error:
            await newer.list()
        assert error.value.exit_code == 69
    newer.close()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT * FROM alembic_version")).scalar_one() == "9999"


async def test_a_migration_that_breaks_off_leaves_the_older_ledger_whole(
    old_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    upgrade = command.upgrade

    def breaks(config: Config, revision: str) -> None:
        upgrade(config, revision)
        raise RuntimeError("the power went off")

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", breaks)
        ledger = Ledger(old_url, "here:1")
        with pytest.raises(RuntimeError):
            await ledger.list()
        ledger.close()
    assert differences(engine) != []
    again = Ledger(old_url, "here:1")
    assert len(await again.list()) == len(KEYS)
    again.close()
