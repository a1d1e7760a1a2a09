"""The journal of accepted requests, and what a ledger that does not know them takes from it."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.errors import ComfylineError, TryLater
from comfyline.files import this_process
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.attempts import pack
from comfyline.ledger.claims import Claimed
from comfyline.ledger.journal import AskedElsewhere, Entry, Journal
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.unrecorded import Recovered, recover, recover_asked, unrecorded
from tests.ledger.conftest import Clock, Desk, asked, output
from tests.ledger.processes import at_once

PAID = Account("https://model-api.example", profile="production")
HERE = "/home/ledger.sqlite3"
MYSELF = this_process()
GONE = f"{MYSELF.rsplit('/', 2)[0]}/1/abc"
"""A process that had the same number, and began at another time."""


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


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "accepted.jsonl", HERE)


@pytest.fixture
def new_ledger(clock: Clock) -> Iterator[Callable[[], Ledger]]:
    """Makes ledgers of the paid account; the second is another one."""
    opened: list[Ledger] = []

    def make() -> Ledger:
        opened.append(Ledger("sqlite://", "here:1", clock, account=PAID))
        return opened[-1]

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture
def paid(new_ledger: Callable[[], Ledger]) -> Ledger:
    return new_ledger()


async def doubted(ledger: Ledger, job: CheckedJob, journal: Journal) -> int:
    """Where the line of a job lies that is in doubt."""
    claim = await Desk(ledger).claim(job)
    assert isinstance(claim, Claimed)
    at = journal.reserve(entry(job, ledger=await ledger.identity(), mark=claim.mark))
    await ledger.ended(claim.attempt_id, JobState.IN_DOUBT, ComfylineError("nobody knows"))
    return at


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


async def _write_many(_: Desk, path: Path) -> None:
    journal, name = Journal(path, HERE), os.getpid()
    for number in range(20):
        mark = f"{name}-{number}"
        journal.accepted(journal.reserve(entry(asked(mark), mark=mark)), f"request-{mark}")


def test_processes_that_write_at_once_lose_nothing(journal: Journal):
    at_once(3, _write_many, "sqlite://", journal.path)
    lines = list(journal.lines())
    assert len(lines) == 60
    assert all(line.request_id == f"request-{line.entry.mark}" for line in lines)


def _fill_the_disk(path: Path) -> tuple[str, int]:
    journal = Journal(path, HERE)
    at = journal.reserve(entry(asked("the last that fits")))
    full = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (full + 100, full + 100))
    with pytest.raises(TryLater) as error:
        journal.reserve(entry(asked("one too many"), mark="mark-2"))
    journal.accepted(at, "request-1")
    return str(error.value), path.stat().st_size - full


async def _fill(_: Desk, path: Path) -> tuple[str, int]:
    return _fill_the_disk(path)


def test_a_full_disk_stops_a_post_and_loses_no_id(journal: Journal):
    [(said, grown)] = at_once(1, _fill, "sqlite://", journal.path)
    assert "so it was not submitted" in said
    assert "Free some space" in said
    assert grown == 0
    assert [line.request_id for line in journal.lines()] == ["request-1"]


async def test_an_id_that_the_ledger_never_heard_of_ends_its_doubt(journal: Journal, paid: Ledger):
    job = asked()
    at = await doubted(paid, job, journal)
    journal.accepted(at, "request-7")
    [missing] = await unrecorded(journal, paid)
    assert (missing.entry.key, missing.request_id) == (job.key, "request-7")

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
    assert await Desk(paid).asks(job, "run-2", refresh=True) == "RESUME"
    assert await recover(journal, paid) == Recovered()


async def test_what_is_known_cost_nothing_or_is_the_sandboxs_is_not_recovered(
    journal: Journal, paid: Ledger
):
    """What the sandbox made costs nothing, and one that was made anew does not know it."""
    job, sandbox = asked(), Account(LOCAL_SANDBOX, profile="sandbox")
    await Desk(paid).stored(job)
    journal.accepted(journal.reserve(entry(job)), "request-1")
    journal.nothing(journal.reserve(entry(asked("never sent"), writer=GONE)), "NotSent")
    journal.accepted(journal.reserve(entry(asked("drawn"), account=sandbox)), "request-1")
    journal.reserve(entry(asked("not answered"), account=sandbox, mark="mark-2", writer=GONE))
    assert await unrecorded(journal, paid) == []
    assert await recover(journal, paid) == Recovered()
    assert await states(paid) == [(1, JobState.PERSISTED, "request-1")]


async def test_a_restored_ledger_compares_again_from_where_it_was_and_a_copied_journal_at_its_start(
    new_ledger: Callable[[], Ledger], journal: Journal, tmp_path: Path
):
    """As a copy remembers less, so does a ledger that was not there."""

    def accept(journal: Journal, name: str) -> None:
        journal.accepted(journal.reserve(entry(asked(name), mark=name)), f"request-{name}")

    first, restored = new_ledger(), new_ledger()
    copy = Journal(tmp_path / "copy.jsonl", HERE)
    accept(journal, "both")
    assert await recover(journal, first) == Recovered(accepted=1)
    copy.path.write_bytes(journal.path.read_bytes())
    accept(copy, "on the clone")
    for number in range(3):
        accept(journal, f"here {number}")
        assert await recover(journal, first) == Recovered(accepted=1)
    assert await recover(journal, restored) == Recovered(accepted=4)
    assert await recover(copy, restored) == Recovered(accepted=1)


@pytest.mark.parametrize("how", ["dead writer", "long ago"])
async def test_a_post_without_an_answer_that_the_ledger_does_not_know_is_in_doubt(
    journal: Journal, paid: Ledger, clock: Clock, how: str
):
    job = asked()
    writer = GONE if how == "dead writer" else MYSELF
    at = journal.reserve(entry(job, writer=writer, at=clock.time))
    if how == "long ago":
        assert await recover(journal, paid) == Recovered(), "its answer may come"
        clock.forward(61)

    assert await recover(journal, paid) == Recovered(in_doubt=1)

    assert await states(paid) == [(1, JobState.IN_DOUBT, None)]
    assert await Desk(paid).asks(job, "run-2", refresh=True) == "BLOCKED"
    assert await recover(journal, paid) == Recovered()
    if how == "long ago":
        journal.accepted(at, "request-7")
        assert await recover(journal, paid) == Recovered(accepted=1)
        assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]


async def test_the_answer_after_lost_and_another_submission_are_both_collected(
    journal: Journal, paid: Ledger
):
    """Because both are paid for."""
    job, desk = asked(), Desk(paid)
    at = await doubted(paid, job, journal)
    await paid.lost((await desk.known(job)).id, ComfylineError("A person found nothing"))
    await desk.submitted(job, "run-2", "request-8")
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
    (strays := tmp_path / "strays").mkdir()
    claim = await Desk(paid).claim(asked())
    assert isinstance(claim, Claimed)
    told = {"key": asked().key, "number": 1, "mark": claim.mark, "request_id": "request-7"}
    (strays / "request-7.json").write_text(json.dumps(told))
    (strays / "other.json").write_text(json.dumps(told | {"mark": "another ledger's"}))
    (strays / "note.json").write_text("{")
    assert await recover(journal, paid) == Recovered(accepted=1)
    assert await states(paid) == [(1, JobState.SUBMITTED, "request-7")]
    assert sorted(path.name for path in strays.iterdir()) == ["note.json", "other.json"]
    assert await recover(journal, paid) == Recovered()


async def test_what_was_compared_is_not_even_read_again(
    journal: Journal, paid: Ledger, monkeypatch: pytest.MonkeyPatch
):
    journal.accepted(journal.reserve(entry(asked("first"))), "request-1")
    await recover(journal, paid)
    read = Mock(wraps=journal.lines)
    monkeypatch.setattr(journal, "lines", read)
    await recover(journal, paid)
    # The line before was looked at to know the journal again.
    read.assert_called_with(journal.path.stat().st_size)


async def test_a_refresh_waits_for_an_older_doubt_and_reuse_does_not(
    journal: Journal, paid: Ledger
):
    """Somebody may have answered it in the ledger that is gone: here nobody has."""
    job = asked()
    journal.reserve(entry(job, writer=GONE))
    journal.accepted(journal.reserve(entry(job, number=2, mark="mark-2")), "request-2")
    assert await recover(journal, paid) == Recovered(accepted=1, in_doubt=1)
    known = await Desk(paid).known(job)
    await paid.completed(known.id, 0.5)
    await paid.persisted(known.id, [output()])

    assert await Desk(paid).asks(job, "run-2") == "REUSE"
    assert await Desk(paid).asks(job, "run-2", refresh=True) == "BLOCKED"
