"""Waiting for a slot: said seldom, with who holds them; what has ended at RunComfy holds none."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.errors import TryLater
from comfyline.job import JobState
from comfyline.ledger.claims import AtCapacity, Claim, Claimed, Limits
from comfyline.ledger.pace import LATE
from comfyline.ledger.slot_queue import TRY_AGAIN, Slots
from comfyline.progress import Event, Note, observed_by
from comfyline.run import CostLimits, Run
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.services import open_ledger
from tests.ledger.conftest import Desk, asked
from tests.runcomfy.conftest import FakeTime, Script

ONE = Limits(in_flight=1)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", None)
    yield Desk(ledger)
    ledger.close()


@pytest.fixture
def run() -> Run:
    return Run(id="r1", pipeline="p", in_flight=1, timeout=60, costs=CostLimits(), refresh=False)


@pytest.fixture
async def slots(
    desk: Desk,
    script: Script,
    connect: Callable[[str], Awaitable[RuncomfyClient]],
    tmp_path: Path,
    time: FakeTime,
) -> Slots:
    return Slots(desk.ledger, await connect(script.url), tmp_path, 1, time)


async def waited(slots: Slots, run: Run, time: FakeTime, *, times: int = 1) -> list[str]:
    """What is told while a job waits so often, with ten seconds in between."""
    told: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            told.append(event.text)

    # Told to stop, nobody waits between two looks.
    run.cancel_token.cancel("a test looks on")
    with observed_by(hear):
        for _ in range(times):
            time.now += 10
            await slots.look(run)
    return told


async def test_who_holds_the_slots_is_said_seldom_and_they_do_not_lapse(
    slots: Slots, desk: Desk, script: Script, run: Run, time: FakeTime
):
    script.say({"status": "in_progress"})
    await desk.submitted(asked("theirs"), "r0")
    said = "waiting for a free slot: 1 of 1 in flight, 1 of them from run r0"
    assert await waited(slots, run, time, times=6) == [said, said]
    assert isinstance(await desk.claim(asked("ours"), limits=ONE), AtCapacity)


async def test_the_same_requests_are_not_waited_for_for_ever(
    slots: Slots, desk: Desk, script: Script, run: Run, time: FakeTime
):
    script.say({"status": "in_progress"})
    await desk.submitted(asked("theirs"), "r0")
    await waited(slots, run, time, times=6)
    with pytest.raises(TryLater, match="No slot became free within 1m: 1 of 1 in flight"):
        await waited(slots, run, time)
    # Nor does every other job of the run wait for its own look.
    with pytest.raises(TryLater, match="No slot became free within 1m"):
        await slots.look(run)


@pytest.mark.parametrize(
    ("answer", "status", "state"),
    [
        ({"status": "completed"}, 200, JobState.COMPLETED),
        ({"status": "cancelled"}, 200, JobState.CANCELLED),
        # It is not known now, which is no end: it only takes no room there.
        ({"error_code": 404001}, 404, JobState.SUBMITTED),
    ],
)
async def test_what_has_ended_and_nobody_watches_is_seen_by_who_waits(
    slots: Slots,
    desk: Desk,
    script: Script,
    run: Run,
    time: FakeTime,
    answer: dict[str, object],
    status: int,
    state: JobState,
):
    script.say(answer, status)
    await desk.submitted(asked("theirs"), "r0")
    assert await waited(slots, run, time) == []
    assert (await desk.known(asked("theirs"))).state is state
    assert not isinstance(await desk.claim(asked("ours"), limits=ONE), AtCapacity)


async def test_a_failure_whose_result_has_outputs_is_completed(
    slots: Slots, desk: Desk, script: Script, run: Run, time: FakeTime
):
    script.say({"status": "failed"})
    script.say({"status": "completed", "output": {"image": "https://a.test/1.png"}})
    await desk.submitted(asked("theirs"), "r0")
    await waited(slots, run, time)
    assert (await desk.known(asked("theirs"))).state is JobState.COMPLETED


async def test_what_a_process_watches_is_not_asked_about_by_others(
    slots: Slots, desk: Desk, script: Script, run: Run, time: FakeTime
):
    script.say({"status": "completed"})
    theirs = asked("theirs")
    assert await desk.ledger.acquire(theirs.key)
    await desk.submitted(theirs, "r0")
    await waited(slots, run, time)
    assert script.calls == []


async def test_a_run_that_is_told_to_stop_waits_no_longer(
    slots: Slots, desk: Desk, script: Script, run: Run
):
    script.say({"status": "in_progress"})
    await desk.submitted(asked("theirs"), "r0")
    waiting = asyncio.create_task(slots.wait(run))
    run.cancel_token.cancel("it was interrupted")
    async with asyncio.timeout(10):
        await waiting


async def test_a_claim_that_takes_long_is_begun_so_early_that_its_post_leaves_in_time(
    slots: Slots, desk: Desk, run: Run, monkeypatch: pytest.MonkeyPatch
):
    claim = desk.ledger.claim

    async def slow(*job: Any, **more: Any) -> Claim:
        claimed = await claim(*job, **more)
        await asyncio.sleep(3 * LATE)
        return claimed

    monkeypatch.setattr(desk.ledger, "claim", slow)
    late: list[float] = []
    more = {"run_id": "r1", "refresh": False, "limits": Limits(9, submits_per_second=2)}
    for number in itertools.count():
        async with slots.turn(run):
            claimed = await slots.claim(asked(f"{number}"), **more)
        if isinstance(claimed, Claimed):
            late.append(seconds_awake_or_asleep() - claimed.place)
        if len(late) == 3:
            break
    # The first teaches how long one takes.
    assert max(late[1:]) <= LATE


async def test_however_many_jobs_wait_the_ledger_is_asked_about_once_a_second(
    slots: Slots, desk: Desk, script: Script, run: Run, monkeypatch: pytest.MonkeyPatch
):
    script.say({"status": "in_progress"})
    await desk.submitted(asked("theirs"), "r0")
    claims = 0
    claim = desk.ledger.claim

    async def counted(*job: Any, **more: Any) -> Claim:
        nonlocal claims
        claims += 1
        return await claim(*job, **more)

    monkeypatch.setattr(desk.ledger, "claim", counted)

    async def wait(number: int) -> None:
        more = {"run_id": "r1", "refresh": False, "limits": ONE}
        while not run.cancel_token.is_cancelled:
            async with slots.turn(run):
                if run.cancel_token.is_cancelled:
                    return
                claim = await slots.claim(asked(f"{number}"), **more)
                assert isinstance(claim, AtCapacity)
                await slots.wait(run)

    waiting = [asyncio.create_task(wait(number)) for number in range(32)]
    await asyncio.sleep(2.5 * TRY_AGAIN)
    assert 1 <= claims <= 3
    slots.freed()
    await asyncio.sleep(0.5 * TRY_AGAIN)
    assert 2 <= claims <= 5
    run.cancel_token.cancel("enough")
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
