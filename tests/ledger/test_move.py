"""A ledger that moves to another database: all of it or nothing, wherever the move dies."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select

from comfyline.config.account import Account
from comfyline.errors import TryLater, Unreachable, UsageError
from comfyline.ledger.database import Database, LedgerMoved
from comfyline.ledger.journal import place_of
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.move import move
from comfyline.ledger.tables import jobs, metadata
from tests.conftest import drop_database, new_database
from tests.ledger.conftest import Clock, Desk, asked, output
from tests.ledger.processes import CONTEXT

ODD = 'a "cat"\n\\u0000 \udcff ü 🐈 %s :x'
DECISIONS = {"stored": "REUSE", "waiting": "RESUME", "doubted": "BLOCKED", "odd": "RESUME"}


async def fill(url: str, clock: Clock) -> None:
    """A job of each kind, with names that no database takes as they are."""
    ledger = Ledger(url, "old:1", clock, account=Account("https://api.example", "two", "prod"))
    desk = Desk(ledger)
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("stored"), output("s3://bucket/ü 1.png"), cost=0.1 + 0.2)
    await desk.submitted(asked("waiting"))
    await desk.in_doubt(asked("doubted"))
    await desk.submitted(asked("odd", item=ODD))
    ledger.close()


async def contents(url: str) -> dict[str, Any]:
    """Every row of every table of a ledger that can be opened."""
    database = Database(url)
    tables = metadata.sorted_tables
    try:
        return await database.read(
            lambda c: {one.name: sorted(map(repr, c.execute(select(one)))) for one in tables}
        )
    finally:
        database.close()


async def seen(url: str) -> Any:
    """Every row, or what is said instead."""
    try:
        return await contents(url)
    except Unreachable as error:
        return error.message


async def goes_on(url: str, clock: Clock) -> None:
    """What was asked for before is known, and what is new gets a number of its own."""
    ledger = Ledger(url, "new:1", clock, account=Account("https://api.example", "two", "prod"))
    desk = Desk(ledger)
    assert {prompt: await desk.asks(asked(prompt)) for prompt in DECISIONS} == DECISIONS
    ids = [one.id for one in await ledger.list()]
    assert await desk.submitted(asked("new"), request_id="new-1") == max(ids) + 1
    assert await ledger.acquire(asked("waiting").key)
    ledger.close()


@pytest.fixture
def pair(database: str, url: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A ledger on the database of the test, and where there is none yet on the other kind."""
    if database == "postgresql":
        yield url, f"sqlite:///{request.getfixturevalue('tmp_path') / 'new/moved.sqlite3'}"
        return
    server = request.getfixturevalue("postgresql_url")
    there = new_database(server)
    yield url, there
    drop_database(server, there)


async def test_all_of_it_arrives_and_goes_on_there_and_the_old_one_says_where_it_went(
    pair: tuple[str, str], clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    before = await contents(here)
    open_before = Ledger(here, "old:2", clock)
    assert len(await open_before.list()) == 4

    counted = await move(here, there)

    assert await contents(there) == before
    assert counted == {name: len(rows) for name, rows in before.items()}
    for ledger in (open_before, Ledger(here, "old:3", clock)):
        with pytest.raises(LedgerMoved) as told:
            await Desk(ledger).claimed(asked("into the old one"))
        with pytest.raises(LedgerMoved):
            await ledger.list()
        ledger.close()
        assert told.value.place == place_of(there) != place_of(here)
        assert "user" not in str(told.value)
    assert await move(here, there) == counted, "said again, it comes to the same"
    await goes_on(there, clock)


async def test_a_ledger_that_went_comes_back_into_another_file(
    pair: tuple[str, str], tmp_path: Path, clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    before, back = await contents(here), f"sqlite:///{tmp_path / 'back.sqlite3'}"

    await move(here, there)
    with pytest.raises(UsageError, match="is not empty"):
        await move(there, here)
    await move(there, back)

    assert await contents(back) == before
    await goes_on(back, clock)


async def test_a_ledger_in_use_is_not_moved_and_those_who_use_it_are_named(
    pair: tuple[str, str], clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    for name, work in {
        "locks:7": lambda ledger: ledger.acquire(asked("waiting").key),
        "posts:8": lambda ledger: Desk(ledger).claimed(asked("being sent")),
    }.items():
        busy = Ledger(here, f"{name}/another-machine/1/2")
        await work(busy)
        with pytest.raises(TryLater, match=f"in use by {name} "):
            await move(here, there)
        await busy.release_all()
        busy.close()
        clock.forward(100)
    assert len((await contents(here))["attempts"]) == 5


async def test_a_database_that_has_anything_is_refused_and_stays_as_it_is(
    pair: tuple[str, str], clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    other = Database(there)
    await other.run(
        lambda c: c.execute(insert(jobs).values(key="k", model_id="m", created_at=clock()))
    )

    with pytest.raises(UsageError, match=r"is not empty: it has the tables alembic_version, "):
        await move(here, there)

    assert len(await other.read(lambda c: c.execute(select(jobs)).all())) == 1
    other.close()
    await goes_on(here, clock)


async def test_a_ledger_that_somebody_opened_too_early_and_left_empty_is_no_obstacle(
    pair: tuple[str, str], clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    before = await contents(here)
    early = Ledger(there, "early:1")
    assert await early.list() == []
    early.close()

    await move(here, there)

    assert await contents(there) == before


def _move_until(here: str, there: str, last: int | str, told: Any) -> None:
    """Moves, and dies right before a statement, by number or beginning; tells which it had."""
    had: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        had.append(statement)
        if len(had) == last or (isinstance(last, str) and statement.startswith(last)):
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    asyncio.run(move(here, there))
    told.put(had)


def statements(here: str, there: str, last: int | str = 0) -> list[str]:
    """The statements of a move; none where it died at one of them, the `last`."""
    told = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=_move_until, args=(here, there, last, told))
    process.start()
    process.join()
    return [] if process.exitcode else list(told.get())


def turning_points(had: Sequence[str]) -> list[int]:
    """The numbers of the statements around which everything changes, and of a few others."""
    copied = max(at for at, one in enumerate(had) if one.startswith("INSERT INTO outputs"))
    last = ("UPDATE", "ALTER", "CREATE", "INSERT INTO moved")
    found = [at for at in range(copied, len(had)) if had[at].lstrip().startswith(last)]
    return [at + 1 for at in (copied // 2, copied, *found, len(had) - 1)]


@pytest.mark.parametrize(
    "all_of_them", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["some", "each"]
)
async def test_wherever_a_move_dies_nothing_is_lost_and_the_next_one_ends_it(
    database: str,
    pair: tuple[str, str],
    tmp_path: Path,
    postgresql_url: str,
    clock: Clock,
    *,
    all_of_them: bool,
) -> None:
    here, _ = pair
    await fill(here, clock)
    before, file = await contents(here), tmp_path / "ledger.sqlite3"
    kept = file.with_name("kept.sqlite3")
    if database == "sqlite":
        shutil.copyfile(file, kept)

    def again(number: int) -> tuple[str, str]:
        if database == "sqlite":
            shutil.copyfile(kept, file.with_name(f"{number}.sqlite3"))
            return f"sqlite:///{file.with_name(f'{number}.sqlite3')}", new_database(postgresql_url)
        template = here.rpartition("/")[2].partition("?")[0]
        return new_database(postgresql_url, template), f"sqlite:///{tmp_path / f'{number}.db'}"

    source, target = again(0)
    had = statements(source, target)
    outcomes = set()
    for number in range(1, len(had) + 1) if all_of_them else turning_points(had):
        source, target = again(number)
        assert statements(source, target, number) == []
        left, copy = await seen(source), await seen(target)
        is_closed = f"moved to {place_of(target)} and takes nothing" in left
        is_copied = "has not come to its end" in copy
        assert is_closed or left == before
        # It is never in two places: there is nothing, or a copy that nobody can use.
        assert is_copied or copy == before if is_closed else is_copied or not copy["attempts"]
        outcomes.add((is_closed, is_copied))
        await move(source, target)
        assert await contents(target) == before, number
        for one in (source, target):
            if one.startswith("postgres"):
                drop_database(postgresql_url, one)
    assert outcomes == {(False, False), (False, True), (True, True)}


async def test_a_copy_that_was_not_ended_is_taken_by_its_own_ledger_and_no_other(
    pair: tuple[str, str], tmp_path: Path, clock: Clock
) -> None:
    here, there = pair
    await fill(here, clock)
    before, other = await contents(here), f"sqlite:///{tmp_path / 'other.sqlite3'}"
    await fill(other, clock)
    assert statements(here, there, "ALTER TABLE attempts RENAME") == []

    with pytest.raises(Unreachable, match=r"being moved here.* ledger move"):
        await contents(there)
    with pytest.raises(UsageError, match="is not empty"):
        await move(other, there)

    await move(here, there)
    assert await contents(there) == before
    await goes_on(other, clock)
