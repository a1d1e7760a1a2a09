"""The database itself: busy, broken, out of reach, or asked by somebody who is being cancelled."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import JobState
from comfyline.ledger.connection import LedgerDatabase
from comfyline.ledger.ledger import Claimed, Ledger
from tests.ledger.conftest import ROOMY, Clock, Desk, asked


@contextlib.contextmanager
def locked(url: str, seconds: float) -> Iterator[None]:
    """Somebody else writes for a while."""
    holder = sqlite3.connect(
        url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    holder.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(seconds, holder.execute, ["COMMIT"])
    timer.start()
    yield
    timer.join()
    holder.close()


async def _value(url: str, pragma: str) -> Any:
    database = LedgerDatabase(url)
    value = await database.read(lambda c: c.execute(text(f"PRAGMA {pragma}")).scalar_one())
    database.close()
    return value


async def test_a_commit_survives_power_loss(url: str):
    assert await _value(url, "journal_mode") == "wal"
    assert await _value(url, "synchronous") == 2  # FULL
    assert await _value(url, "foreign_keys") == 1


async def test_a_locked_ledger_is_waited_for(desk: Desk, url: str):
    await desk.claimed(asked("one"))
    with locked(url, 0.4):
        assert isinstance(await desk.claim(asked("two")), Claimed)


async def test_reading_waits_for_nobody(desk: Desk, url: str, clock: Clock):
    job = asked()
    await desk.claimed(job)
    with locked(url, 0.6):
        fresh = Ledger(url, "there:2", clock)
        async with asyncio.timeout(0.4):
            assert await Desk(fresh).state(job) is JobState.SUBMITTING
        fresh.close()


async def test_the_event_loop_runs_on_while_the_ledger_waits(desk: Desk, url: str):
    await desk.claimed(asked("one"))
    with locked(url, 0.3):
        claiming = asyncio.create_task(desk.claim(asked("two")))
        ticks = 0
        while not claiming.done():
            await asyncio.sleep(0.01)
            ticks += 1
    assert ticks > 10


async def test_a_claim_that_nobody_hears_of_any_more_is_given_back(desk: Desk, url: str):
    job = asked()
    await desk.claimed(asked("other"))
    with locked(url, 0.3):
        claiming = asyncio.create_task(desk.claim(job))
        await asyncio.sleep(0.05)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    assert await desk.state(job) is JobState.PLANNED


async def test_what_was_learnt_is_written_down_although_the_asker_is_cancelled(
    desk: Desk, ledger: Ledger, url: str
):
    job = asked()
    attempt_id = await desk.claimed(job)
    with locked(url, 0.3):
        writing = asyncio.create_task(ledger.accepted(attempt_id, "r-1"))
        await asyncio.sleep(0.05)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert (await desk.known(job)).request_id == "r-1"


async def test_a_request_id_that_cannot_be_written_down_is_carried_by_the_error(
    desk: Desk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    attempt_id = await desk.claimed(asked())

    async def fails(_: object) -> None:
        raise Unreachable("The disk is full")

    monkeypatch.setattr(ledger._database, "run", fails)
    with pytest.raises(Unreachable, match=r"accepted request r-5.*--request-id r-5") as error:
        await ledger.accepted(attempt_id, "r-5")
    assert error.value.request_id == "r-5"


async def test_a_failure_in_the_middle_leaves_nothing_half_done(
    desk: Desk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr("comfyline.ledger.writing.lease", fails)
        with pytest.raises(RuntimeError):
            await desk.claim(asked())
    assert not await ledger.list(None, None)
    assert await desk.claim(asked()) == Claimed(1, 1)


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


async def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path, clock: Clock):
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match=r"cannot be used.*COMFYLINE_LEDGER_URL"):
        Ledger(f"sqlite:///{tmp_path / 'file' / 'deeper' / 'l.db'}", "here:1", clock)


async def test_a_file_that_cannot_be_opened_is_said_in_words(tmp_path: Path, clock: Clock):
    ledger = Ledger(f"sqlite:///{tmp_path}", "here:1", clock)
    with pytest.raises(Unreachable, match="unable to open"):
        await ledger.claim(asked(), run_id="run-1", refresh=False, limits=ROOMY)
    ledger.close()


@pytest.mark.parametrize(
    "url", ["", "rubbish", "sqlite", "nosuch://u:SECRET@h/x", "postgresql+nosuch://u:SECRET@h/x"]
)
def test_a_url_that_names_no_usable_database_is_said_without_its_password(url: str, clock: Clock):
    with pytest.raises(InputInvalid, match="write sqlite:") as error:
        Ledger(url, "here:1", clock)
    assert "SECRET" not in str(error.value)


def test_a_driver_that_only_works_asynchronously_is_refused(clock: Clock):
    with pytest.raises(InputInvalid, match="asynchronous driver"):
        Ledger("postgresql+asyncpg://u:SECRET@h/x", "here:1", clock)


async def test_the_folder_of_a_new_ledger_is_made(tmp_path: Path, clock: Clock):
    ledger = Ledger(f"sqlite:///{tmp_path / 'a' / 'b' / 'l.db'}", "here:1", clock)
    assert await ledger.find(["k"]) == {}
    ledger.close()


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
