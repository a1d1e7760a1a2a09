"""Runs that are told to stop: looked at in every claim, from whichever process it was said."""

from comfyline.ledger.claiming import Claimed, NotOurs, RunStopped
from comfyline.ledger.decision import Decision
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Clock, Desk, asked


async def test_a_stopped_run_submits_nothing_more_and_others_go_on(
    desk: Desk, ledger: Ledger, url: str, clock: Clock
):
    await ledger.open_run("run-1", "scenes")
    assert isinstance(await desk.claim(asked("one")), Claimed)
    there = Ledger(url, "there:2", clock)
    assert await there.stop_run("run-1")
    there.close()
    assert await ledger.is_stopped("run-1")
    assert await desk.claim(asked("two")) == RunStopped()
    assert isinstance(await desk.claim(asked("two"), "run-2"), Claimed)


async def test_a_stopped_run_still_learns_of_what_is_there(desk: Desk, ledger: Ledger):
    await desk.stored(asked("one"))
    await desk.submitted(asked("two"), "run-2")
    await ledger.open_run("run-3", "scenes")
    await ledger.stop_run("run-3")
    for prompt, decision in (("one", Decision.REUSE), ("two", Decision.RESUME)):
        claim = await desk.claim(asked(prompt), "run-3", refresh=False)
        assert isinstance(claim, NotOurs)
        assert claim.decision is decision


async def test_what_a_stopped_run_asked_for_leaves_no_trace(desk: Desk, ledger: Ledger):
    await ledger.open_run("run-1", "scenes")
    await ledger.stop_run("run-1")
    await desk.claim(asked())
    assert await ledger.list() == []


async def test_a_run_that_nobody_opened_cannot_be_stopped_and_is_not(desk: Desk, ledger: Ledger):
    assert not await ledger.stop_run("run-9")
    assert not await ledger.is_stopped("run-9")
    assert isinstance(await desk.claim(asked(), "run-9"), Claimed)


async def test_a_run_that_somebody_begins_again_may_submit_again(ledger: Ledger):
    await ledger.open_run("run-1", "scenes")
    await ledger.stop_run("run-1")
    await ledger.open_run("run-1", "scenes")
    assert not await ledger.is_stopped("run-1")
