"""The database blinks: what is owed to the ledger is written once it is back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from comfyline.errors import ComfylineError, GenerationFailed, InDoubt, Unreachable
from comfyline.job import JobState
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.claims import Claimed
from comfyline.ledger.database import Database
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.ledger import Ledger
from comfyline.progress import Event, Note, observed_by
from tests.ledger.conftest import Clock, Desk, asked, output
from tests.ledger.proxy import Cut, Proxy, proxy

JOB = asked()
LOST = ComfylineError("A person found that it was never accepted")

OTHERS_END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def say(url: str, *statements: str) -> None:
    """Says something to the server beside the ledger."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement)


async def until(url: str, question: str) -> None:
    """Waits until a count of the server's is not 0."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while (await (await connection.execute(question)).fetchone()) == (0,):
            await connection.execute("SELECT pg_sleep(0.01)")


@pytest.fixture
def between(url: str) -> Iterator[Proxy]:
    with proxy(url) as one:
        yield one


@pytest.fixture
async def here(between: Proxy, clock: Clock) -> AsyncIterator[Desk]:
    """A process that reaches the ledger through the proxy, and has used it before."""
    ledger = Ledger(between.url, "here:1", clock)
    assert await ledger.list() == []
    yield Desk(ledger)
    ledger.close()


@pytest.fixture(params=["before", "after"])
def cut(request: pytest.FixtureRequest) -> Cut:
    """Whether the commit that is not heard of took place."""
    cut: Cut = request.param
    return cut


async def test_a_claim_whose_commit_is_not_heard_of_is_used(here: Desk, between: Proxy, cut: Cut):
    between.cut = cut
    attempt_id = await here.claimed(JOB)
    assert between.has_cut.is_set()
    assert await here.state(JOB) is JobState.SUBMITTING
    await here.ledger.accepted(attempt_id, "r-1")
    [only] = await here.ledger.list()
    assert (only.id, only.number, only.request_id) == (attempt_id, 1, "r-1")
    assert JobState.IN_DOUBT not in only.reached


async def test_a_claim_that_outlives_its_lease_unheard_is_no_doubt_afterwards(
    here: Desk, between: Proxy, there: Desk, clock: Clock
):
    between.cut, between.goes_away_then = "after", True
    claiming = asyncio.create_task(here.claimed(JOB))
    await asyncio.to_thread(between.has_cut.wait, 30)
    clock.forward(LEASE_SECONDS + 1)
    assert await there.ledger.end_dead_leases() == 1
    assert await there.state(JOB) is JobState.IN_DOUBT
    between.comes_back()
    attempt_id = await claiming
    known = await there.known(JOB)
    assert (known.id, known.state, known.owner) == (attempt_id, JobState.SUBMITTING, "here:1")
    assert JobState.IN_DOUBT not in {one.state for one in await there.ledger.list()}


async def test_a_claim_that_was_given_up_unheard_is_given_back_with_the_next_word(
    here: Desk, between: Proxy, there: Desk, monkeypatch: pytest.MonkeyPatch
):
    between.cut, between.goes_away_then = "after", True
    monkeypatch.setattr(here.ledger.database, "patience", 0.2)
    with pytest.raises(Unreachable):
        await here.claimed(JOB)
    assert await there.state(JOB) is JobState.SUBMITTING
    between.comes_back()
    await here.ledger.release_all()
    assert await there.state(JOB) is JobState.PLANNED
    assert isinstance(await there.claim(asked("another"), "run-2"), Claimed)


async def test_what_is_written_unheard_is_written_again_and_comes_to_the_same(
    here: Desk, between: Proxy, cut: Cut, monkeypatch: pytest.MonkeyPatch
):
    """Each transaction is cut off once."""
    ledger, run = here.ledger, here.ledger.database.run

    async def cut_off(work: object) -> object:
        between.cut = cut
        return await run(work)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger.database, "run", cut_off)
    stored, failed, lost, given_back = [await here.claimed(asked(name)) for name in "abcd"]
    await ledger.accepted(stored, "r-1")
    await ledger.observed(stored, JobState.IN_QUEUE)
    await ledger.completed(stored, 0.4)
    await ledger.persisted(stored, [output()])
    await ledger.accepted(failed, "r-2")
    await ledger.ended(failed, JobState.FAILED, GenerationFailed("no"), cost_usd=0.1)
    seen = Evidence(how_far="body_sent", reason="HTTP 502")
    await ledger.ended(lost, JobState.IN_DOUBT, InDoubt("HTTP 502"), evidence=seen)
    await ledger.lost(lost, LOST)
    await here.not_sent(given_back)
    assert between.cut is None
    assert {one.id: (one.state, one.cost_usd, len(one.outputs)) for one in await ledger.list()} == {
        stored: (JobState.PERSISTED, 0.4, 1),
        failed: (JobState.FAILED, 0.1, 0),
        lost: (JobState.FAILED, None, 0),
        given_back: (JobState.PLANNED, None, 0),
    }


async def test_everybody_waits_for_a_ledger_that_is_away_and_it_is_said_once(
    here: Desk, between: Proxy
):
    heard: list[Event] = []
    attempt_id = await here.claimed(JOB)
    between.goes_away()
    with observed_by(heard.append):
        asking = [
            asyncio.create_task(here.ledger.accepted(attempt_id, "r-1")),
            *(asyncio.create_task(here.ledger.find([JOB.key])) for _ in range(5)),
        ]
        _, pending = await asyncio.wait(asking, timeout=2)
        assert len(pending) == len(asking)
        between.comes_back()
        await asyncio.gather(*asking)
    texts = [event.text for event in heard if isinstance(event, Note)]
    assert [text.rpartition(" ")[2] for text in texts] == ["it", "again"], texts
    assert "cannot be used" in texts[0]
    assert (await here.known(JOB)).request_id == "r-1"


async def test_nobody_waits_longer_than_the_first_and_what_was_accepted_is_carried_by_the_error(
    here: Desk, between: Proxy, monkeypatch: pytest.MonkeyPatch
):
    attempt_id = await here.claimed(JOB)
    monkeypatch.setattr(here.ledger.database, "patience", 0.5)
    between.goes_away()
    with pytest.raises(Unreachable, match="accepted request r-1") as error:
        await here.ledger.accepted(attempt_id, "r-1")
    assert (error.value.exit_code, error.value.request_id) == (69, "r-1")
    # All have waited for it together: whoever asks after that is told so at once.
    monkeypatch.setattr("asyncio.sleep", None)
    with pytest.raises(Unreachable):
        await here.ledger.find([])


async def test_a_standby_that_is_not_promoted_yet_is_waited_for(here: Desk, url: str):
    attempt_id = await here.claimed(JOB)
    name = make_url(url).database
    heard: asyncio.Queue[Event] = asyncio.Queue()
    await say(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on", OTHERS_END)
    with observed_by(heard.put_nowait):
        writing = asyncio.create_task(here.ledger.accepted(attempt_id, "r-1"))
        # The connections that ended are one trouble, a database that is not to be written another.
        assert "cannot be used" in str(await heard.get())
    await until(url, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle'")
    assert not writing.done()
    writable = "SET default_transaction_read_only = off"
    await say(url, writable, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await say(url, OTHERS_END)
    await writing
    assert (await here.known(JOB)).request_id == "r-1"


async def test_what_waiting_does_not_mend_is_said_at_once(postgresql_database: str, clock: Clock):
    guests = "CREATE ROLE guest LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    await say(postgresql_database, *guests)
    here = make_url(postgresql_database)
    for url, said in (
        (here.set(database="nowhere"), 'database "nowhere" does not exist'),
        (here.set(username="guest"), "cannot be used: permission denied for schema public"),
    ):
        ledger = Ledger(url.render_as_string(hide_password=False), "here:1", clock)
        with pytest.raises(Unreachable, match=said):
            await asyncio.wait_for(ledger.find([]), 20)
        ledger.close()


async def test_a_full_disk_is_waited_for_and_said_as_one(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    heard: asyncio.Queue[Event] = asyncio.Queue()
    pages = "PRAGMA page_count"
    size = await database.read(lambda c: c.execute(text(pages)).scalar_one())
    # SQLite's own limit says the same as a disk does.
    await database.run(lambda c: c.execute(text(f"PRAGMA max_page_count = {size}")).all())
    fills = text("CREATE TABLE more AS SELECT randomblob(100000) AS blob")
    with observed_by(heard.put_nowait):
        writing = asyncio.create_task(database.run(lambda c: c.execute(fills)))
        full = str(await heard.get())
        assert not writing.done()
        await database.run(lambda c: c.execute(text("PRAGMA max_page_count = 100000")).all())
        await writing
    database.close()
    assert "its disk is full" in full
    assert "waiting for it" in full
