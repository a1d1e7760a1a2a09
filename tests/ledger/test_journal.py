"""The journal of accepted requests, and what a ledger that does not know them takes from it."""

import asyncio
import json
import multiprocessing
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.errors import ComfylineError, TryLater
from comfyline.files import this_process
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.attempts import Evidence, pack
from comfyline.ledger.claims import Claimed, NotOurs
from comfyline.ledger.decision import Decision
from comfyline.ledger.journal import AskedElsewhere, Entry, Journal
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.unrecorded import Recovered, recover, recover_asked, unrecorded
from tests.conftest import new_database
from tests.ledger.conftest import ROOMY, Clock, Desk, asked, output

PAID = Account("https://model-api.example", profile="production")
HERE = "/home/ledger.sqlite3"
MYSELF = this_process()


def entry(job: CheckedJob, **more: Any) -> Entry:
    plain = Entry(
        key=job.key,
        number=1,
        mark="mark-1",
        ledger="0" * 32,
        place=HERE,
        account=PAID,
        at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        run_id="run-1",
        writer=MYSELF,
        request=pack(job),
    )
    return replace(plain, **more)


def ended_process() -> str:
    """The name of a process that is gone."""
    code = "from comfyline.files import this_process; print(this_process())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "accepted.jsonl", HERE)


@pytest.fixture
def paid(new_ledger: Callable[[], Ledger]) -> Ledger:
    return new_ledger()


@pytest.fixture
def new_ledger(
    database: str, clock: Clock, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Ledger]]:
    """Makes ledgers of the paid account; the second is another one."""
    opened: list[Ledger] = []

    def make() -> Ledger:
        if database == "sqlite":
            url = "sqlite://"
        else:
            server = request.getfixturevalue("postgresql_url")
            url = new_database(server, request.getfixturevalue("ledger_template"))
        opened.append(Ledger(url, "here:1", clock, account=PAID))
        return opened[-1]

    yield make
    for ledger in opened:
        ledger.close()


async def claimed(ledger: Ledger, job: CheckedJob, mark: str, run: str = "run-1") -> Claimed:
    claim = await ledger.claim(
        job, run_id=run, refresh=False, limits=ROOMY, evidence=Evidence(mark=mark)
    )
    assert isinstance(claim, Claimed)
    return claim


async def states(ledger: Ledger) -> list[tuple[int, JobState, str | None]]:
    """Number, state and request id of all attempts, oldest first."""
    return [(one.number, one.state, one.request_id) for one in (await ledger.list())[::-1]]


def test_what_was_reserved_is_read_back_with_what_became_of_it(journal: Journal):
    places = [journal.reserve(entry(asked(f"cat {n}"), mark=f"mark-{n}")) for n in range(4)]
    size = journal.path.stat().st_size
    journal.accepted(places[1], "a" * 128)
    journal.nothing(places[2], "NotSent")

    lines = list(journal.lines())

    assert [line.request_id for line in lines] == [None, "a" * 128, None, None]
    assert [line.is_nothing for line in lines] == [False, False, True, False]
    assert [line.entry for line in lines] == [
        entry(asked(f"cat {n}"), mark=f"mark-{n}") for n in range(4)
    ]
    assert journal.path.stat().st_size == size, "an id takes no new space"
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())


def test_the_line_of_a_process_that_died_in_it_is_left_out(journal: Journal):
    journal.reserve(entry(asked("whole")))
    with journal.path.open("ab") as file:
        file.write(b'{"ledger": "torn')
    assert len(list(journal.lines())) == 1

    journal.accepted(journal.reserve(entry(asked("after"), mark="mark-2")), "request-2")

    assert [line.request_id for line in journal.lines()] == [None, "request-2"]


def _write_many(path: Path, name: int) -> None:
    journal = Journal(path, HERE)
    for number in range(50):
        mark = f"{name}-{number}"
        journal.accepted(journal.reserve(entry(asked(mark), mark=mark)), f"request-{mark}")


def test_processes_that_write_at_once_lose_nothing(journal: Journal):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(journal.path, n)) for n in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()

    lines = list(journal.lines())

    assert len(lines) == 200
    assert all(line.request_id == f"request-{line.entry.mark}" for line in lines)


def _fill_the_disk(path: Path, told: Any) -> None:
    journal = Journal(path, HERE)
    at = journal.reserve(entry(asked("the last that fits")))
    full = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (full + 100, full + 100))
    try:
        journal.reserve(entry(asked("one too many"), mark="mark-2"))
    except TryLater as error:
        told.put((str(error), path.stat().st_size == full))
    journal.accepted(at, "request-1")


def test_a_full_disk_stops_a_post_and_loses_no_id(journal: Journal):
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=_fill_the_disk, args=(journal.path, told))
    child.start()
    said, is_as_before = told.get(timeout=60)
    child.join()

    assert "so it was not submitted" in said
    assert "Make room" in said
    assert is_as_before
    assert [line.request_id for line in journal.lines()] == ["request-1"]


async def test_an_id_that_the_ledger_never_heard_of_ends_its_doubt(
    journal: Journal, paid: Ledger, clock: Clock
):
    job = asked()
    at = journal.reserve(entry(job, ledger=await paid.identity()))
    await claimed(paid, job, "mark-1")
    clock.forward(61)
    await paid.end_dead_leases()
    journal.accepted(at, "request-7")
    [missing] = await unrecorded(journal, paid)
    assert (missing.key, missing.request_id) == (job.key, "request-7")

    assert await recover(journal, paid) == Recovered(accepted=1)

    assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]
    assert await unrecorded(journal, paid) == []
    assert await recover(journal, paid) == Recovered()


async def test_a_ledger_made_anew_takes_what_was_accepted(journal: Journal, paid: Ledger):
    job = asked(price=0.25)
    journal.accepted(journal.reserve(entry(job, number=3)), "request-7")

    assert await recover(journal, paid) == Recovered(accepted=1)

    [attempt] = await paid.list()
    assert (attempt.number, attempt.state, attempt.checked) == (3, JobState.SUBMITTED, job)
    assert (attempt.account, attempt.request_id) == (PAID, "request-7")
    assert attempt.submitted_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert attempt.reserved_usd == 0.25
    again = await paid.claim(job, run_id="run-2", refresh=True, limits=ROOMY)
    assert isinstance(again, NotOurs)
    assert again.decision is Decision.RESUME
    assert await recover(journal, paid) == Recovered()


async def test_what_is_stored_already_is_not_taken_again(journal: Journal, paid: Ledger):
    job = asked()
    await Desk(paid).stored(job)
    journal.accepted(journal.reserve(entry(job)), "request-1")
    assert await recover(journal, paid) == Recovered()
    assert await states(paid) == [(1, JobState.PERSISTED, "request-1")]


async def test_a_restored_ledger_compares_again_from_where_it_was(
    new_ledger: Callable[[], Ledger], journal: Journal
):
    """As a copy remembers less, so does a ledger that was not there."""
    first, restored = new_ledger(), new_ledger()
    for number in range(3):
        one = entry(asked(f"cat {number}"), mark=f"mark-{number}")
        journal.accepted(journal.reserve(one), f"request-{number}")
        assert await recover(journal, first) == Recovered(accepted=1)
    assert await recover(journal, restored) == Recovered(accepted=3)


async def test_what_the_local_sandbox_made_is_not_added(journal: Journal, paid: Ledger):
    """It costs nothing, and a sandbox that was made anew does not know it."""
    sandbox = Account(LOCAL_SANDBOX, profile="sandbox")
    journal.accepted(journal.reserve(entry(asked(), account=sandbox)), "request-1")
    journal.reserve(entry(asked("2"), account=sandbox, mark="mark-2", writer=ended_process()))
    assert await unrecorded(journal, paid) == []
    assert await recover(journal, paid) == Recovered()


async def test_a_copy_of_a_journal_that_went_on_differently_is_compared_from_the_start(
    journal: Journal, paid: Ledger, tmp_path: Path
):
    journal.accepted(journal.reserve(entry(asked("both"))), "request-1")
    copy = Journal(tmp_path / "copy.jsonl", HERE)
    copy.path.write_bytes(journal.path.read_bytes())
    copy.accepted(copy.reserve(entry(asked("on the clone"), mark="mark-2")), "request-2")
    for number in range(3):
        one = entry(asked(f"cat {number}"), mark=f"mark-{number}-here")
        journal.accepted(journal.reserve(one), f"request-here-{number}")
    assert await recover(journal, paid) == Recovered(accepted=4)

    assert await recover(copy, paid) == Recovered(accepted=1)


@pytest.mark.parametrize("how", ["dead writer", "long ago"])
async def test_a_post_without_an_answer_that_the_ledger_does_not_know_is_in_doubt(
    journal: Journal, paid: Ledger, clock: Clock, how: str
):
    job = asked()
    writer = ended_process() if how == "dead writer" else MYSELF
    at = journal.reserve(entry(job, writer=writer, at=clock.time))
    if how == "long ago":
        assert await recover(journal, paid) == Recovered(), "its answer may come"
        clock.forward(61)

    assert await recover(journal, paid) == Recovered(in_doubt=1)

    assert await states(paid) == [(1, JobState.IN_DOUBT, None)]
    blocked = await paid.claim(job, run_id="run-2", refresh=True, limits=ROOMY)
    assert isinstance(blocked, NotOurs)
    assert blocked.decision is Decision.BLOCKED
    assert await recover(journal, paid) == Recovered()
    if how == "long ago":
        journal.accepted(at, "request-7")
        assert await recover(journal, paid) == Recovered(accepted=1)
        assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]


async def test_what_came_to_nothing_is_nothing_to_recover(journal: Journal, paid: Ledger):
    at = journal.reserve(entry(asked(), writer=ended_process()))
    journal.nothing(at, "NotSent")
    assert await unrecorded(journal, paid) == []
    assert await recover(journal, paid) == Recovered()


async def test_the_answer_after_lost_is_the_attempts_own(journal: Journal, paid: Ledger):
    job = asked()
    at = journal.reserve(entry(job))
    claim = await claimed(paid, job, "mark-1")
    await paid.ended(claim.attempt_id, JobState.IN_DOUBT, ComfylineError("nobody knows"))
    await paid.lost(claim.attempt_id, ComfylineError("A person found nothing"))
    journal.accepted(at, "request-7")

    assert await recover(journal, paid) == Recovered(accepted=1)

    assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]
    assert (await Desk(paid).known(job)).submitted_at == (await Desk(paid).known(job)).claimed_at


async def test_the_answer_after_lost_and_another_submission_are_both_collected(
    journal: Journal, paid: Ledger
):
    """Because both are paid for."""
    job, desk = asked(), Desk(paid)
    at = journal.reserve(entry(job))
    claim = await claimed(paid, job, "mark-1")
    await paid.ended(claim.attempt_id, JobState.IN_DOUBT, ComfylineError("nobody knows"))
    await paid.lost(claim.attempt_id, ComfylineError("A person found nothing"))
    second = await claimed(paid, job, "mark-2", run="run-2")
    await paid.accepted(second.attempt_id, "request-8")
    journal.accepted(at, "request-7")

    assert await recover(journal, paid) == Recovered(accepted=1)

    assert await states(paid) == [
        (1, JobState.SUBMITTED, "request-7"),
        (2, JobState.SUBMITTED, "request-8"),
    ]
    for request_id in ("request-8", "request-7"):
        known = await desk.known(job)
        assert known.request_id == request_id, "each has its turn"
        await paid.completed(known.id, 0.5)
        await paid.persisted(known.id, [output(f"file:///{request_id}.png")])
    assert (await desk.known(job)).request_id == "request-8"
    assert await recover(journal, paid) == Recovered()


async def test_two_ledgers_side_by_side_leave_each_others_jobs_alone(
    journal: Journal, new_ledger: Callable[[], Ledger], tmp_path: Path
):
    mine = new_ledger()
    other = tmp_path / "other.sqlite3"
    other.touch()
    theirs = entry(asked("theirs"), ledger="1" * 32, place=str(other))
    journal.accepted(journal.reserve(theirs), "request-1")
    assert await unrecorded(journal, mine) == []
    assert await recover(journal, mine) == Recovered()

    other.unlink()

    anew = new_ledger()
    assert await recover(journal, anew) == Recovered(accepted=1), "there is no other any more"


async def test_a_job_that_another_ledger_of_the_machine_has_is_not_paid_for_again(
    journal: Journal, paid: Ledger, tmp_path: Path
):
    job, other = asked(), tmp_path / "other.sqlite3"
    other.touch()
    theirs = entry(job, ledger="1" * 32, place=str(other))
    journal.accepted(journal.reserve(theirs), "request-1")
    mine = entry(job, ledger=await paid.identity(), mark="mark-2")

    with pytest.raises(AskedElsewhere):
        journal.reserve(mine)
    elsewhere = replace(mine, account=Account("https://another.example"))
    journal.reserve(elsewhere)

    await recover_asked(journal, paid, job.key)
    assert await states(paid) == [(1, JobState.SUBMITTED, "request-1")]
    journal.reserve(mine)


async def test_an_id_in_a_file_of_its_own_is_still_taken(
    journal: Journal, paid: Ledger, tmp_path: Path
):
    """Where versions before the journal kept it."""
    strays = tmp_path / "strays"
    strays.mkdir()
    job = asked()
    claim = await claimed(paid, job, "mark-1")
    told = {"key": job.key, "number": claim.number, "mark": "mark-1", "request_id": "request-7"}
    (strays / "request-7.json").write_text(json.dumps(told))
    (strays / "other.json").write_text(json.dumps(told | {"mark": "another ledger's"}))
    (strays / "note.json").write_text("{")
    assert len(await unrecorded(journal, paid)) == 3, "also what cannot be read"

    assert await recover(journal, paid) == Recovered(accepted=1)

    assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]
    assert sorted(path.name for path in strays.iterdir()) == ["note.json", "other.json"]


def test_a_big_journal_is_compared_once(tmp_path: Path, clock: Clock):
    """What was compared is not even read again."""
    journal = Journal(tmp_path / "accepted.jsonl", HERE)
    journal.accepted(journal.reserve(entry(asked("first"))), "request-1")
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", "here:1", clock, account=PAID)
    starts: list[int] = []
    lines = journal.lines

    def watched(start: int = 0) -> Any:
        starts.append(start)
        return lines(start)

    journal.lines = watched  # type: ignore[method-assign]

    async def twice() -> None:
        await recover(journal, ledger)
        before = journal.path.stat().st_size
        starts.clear()
        await recover(journal, ledger)
        # The line before is looked at to know the journal again, and nothing else.
        assert before in starts
        assert 0 not in starts

    asyncio.run(twice())
    ledger.close()


async def test_a_refresh_waits_for_an_older_doubt_and_reuse_does_not(
    journal: Journal, paid: Ledger
):
    """Somebody may have answered it in the ledger that is gone: here nobody has."""
    job = asked()
    journal.reserve(entry(job, writer=ended_process()))
    journal.accepted(journal.reserve(entry(job, number=2, mark="mark-2")), "request-2")
    assert await recover(journal, paid) == Recovered(accepted=1, in_doubt=1)
    known = await Desk(paid).known(job)
    await paid.completed(known.id, 0.5)
    await paid.persisted(known.id, [output()])

    reused = await paid.claim(job, run_id="run-2", refresh=False, limits=ROOMY)
    refreshed = await paid.claim(job, run_id="run-2", refresh=True, limits=ROOMY)

    assert isinstance(reused, NotOurs)
    assert isinstance(refreshed, NotOurs)
    assert [reused.decision, refreshed.decision] == [Decision.REUSE, Decision.BLOCKED]
    assert refreshed.attempt.state is JobState.IN_DOUBT
