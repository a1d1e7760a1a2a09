"""Runs that are told to stop: looked at in every claim, from whichever process it was said."""

import pytest

from comfyline.errors import GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.claims import BudgetExceeded, Claimed, Limits, NotOurs, RunStopped
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


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_retried_run_asks_again_for_what_failed_in_an_earlier_try_and_once_only(
    desk: Desk, ledger: Ledger, clock: Clock, *, refresh: bool
):
    for end in (JobState.FAILED, JobState.CANCELLED):
        began = await ledger.open_run("run-1", "scenes")
        claim = await desk.claim(asked(end), "run-1", refresh=refresh, began=began)
        assert isinstance(claim, Claimed)
        await ledger.accepted(claim.attempt_id, f"r-{end}")
        await ledger.ended(claim.attempt_id, end, GenerationFailed("no"))
        blocked = await desk.claim(asked(end), "run-1", refresh=refresh, began=began)
        assert isinstance(blocked, NotOurs)

        clock.forward(1)
        began = await ledger.open_run("run-1", "scenes")
        again = await desk.claim(asked(end), "run-1", refresh=refresh, began=began)
        assert isinstance(again, Claimed)
        await ledger.accepted(again.attempt_id, f"r-{end}-2")
        await ledger.ended(again.attempt_id, end, GenerationFailed("no"))
        clock.forward(1)
        blocked = await desk.claim(asked(end), "run-1", refresh=refresh, began=began)
        assert isinstance(blocked, NotOurs)


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_retried_run_does_not_pay_again_for_what_an_earlier_try_paid(
    desk: Desk, ledger: Ledger, clock: Clock, *, refresh: bool
):
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("stored"))
    await desk.submitted(asked("waiting"), "run-1")
    charged = await desk.submitted(asked("charged"), "run-1")
    await ledger.ended(charged, JobState.FAILED, GenerationFailed("no"), cost_usd=0.5)
    clock.forward(1)
    began = await ledger.open_run("run-1", "scenes")
    decisions = {"stored": "REUSE", "waiting": "RESUME", "charged": "BLOCKED"}
    for prompt, decision in decisions.items():
        claim = await desk.claim(asked(prompt), "run-1", refresh=refresh, began=began)
        assert isinstance(claim, NotOurs)
        assert claim.decision.name == decision


async def test_a_retried_run_has_the_budget_that_earlier_tries_left(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("one"))
    clock.forward(1)
    began = await ledger.open_run("run-1", "scenes")
    limits = Limits(1000, max_cost_usd=0.8)
    claim = await desk.claim(asked("two"), "run-1", limits=limits, began=began)
    assert isinstance(claim, BudgetExceeded)
    assert claim.reserved_usd == pytest.approx(0.4)


async def test_a_run_that_somebody_begins_again_may_submit_again(ledger: Ledger):
    await ledger.open_run("run-1", "scenes")
    await ledger.stop_run("run-1")
    await ledger.open_run("run-1", "scenes")
    assert not await ledger.is_stopped("run-1")
