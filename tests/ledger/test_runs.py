"""Runs that are told to stop, and runs that are retried: looked at in every claim."""

import pytest

from comfyline.errors import GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.claims import Limits
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Clock, Desk, asked


async def test_a_stopped_run_submits_nothing_more_and_others_go_on(
    desk: Desk, ledger: Ledger, there: Desk
):
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("stored"))
    await desk.submitted(asked("running"))
    assert await there.ledger.stop_run("run-1")
    assert await ledger.is_stopped("run-1")
    assert await desk.asks(asked("new")) == "RunStopped"
    assert len(await ledger.list()) == 2, "what it asked for leaves no trace"
    assert await desk.asks(asked("stored")) == "REUSE"
    assert await desk.asks(asked("running")) == "RESUME"
    assert await desk.asks(asked("new"), "run-2") == "CLAIMED"
    await ledger.open_run("run-1", "scenes")
    assert await desk.asks(asked("newer")) == "CLAIMED", "somebody has begun it again"


async def test_a_run_that_nobody_opened_cannot_be_stopped_and_is_not(desk: Desk, ledger: Ledger):
    assert not await ledger.stop_run("run-9")
    assert not await ledger.is_stopped("run-9")
    assert await desk.asks(asked(), "run-9") == "CLAIMED"


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_retried_run_asks_again_for_what_failed_in_an_earlier_try_and_once_only(
    desk: Desk, ledger: Ledger, clock: Clock, *, refresh: bool
):
    for end in (JobState.FAILED, JobState.CANCELLED):
        for _ in range(2):
            clock.forward(1)
            more = {"began": await ledger.open_run("run-1", "scenes"), "refresh": refresh}
            attempt_id = await desk.submitted(asked(end), **more)
            await ledger.ended(attempt_id, end, GenerationFailed("no"))
            assert await desk.asks(asked(end), **more) == "BLOCKED"


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_retried_run_does_not_pay_again_for_what_an_earlier_try_paid(
    desk: Desk, ledger: Ledger, clock: Clock, *, refresh: bool
):
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("stored"))
    await desk.submitted(asked("waiting"))
    await desk.failed(asked("charged"), cost_usd=0.5)
    clock.forward(1)
    began = await ledger.open_run("run-1", "scenes")
    decisions = {"stored": "REUSE", "waiting": "RESUME", "charged": "BLOCKED"}
    for prompt, decision in decisions.items():
        assert await desk.asks(asked(prompt), refresh=refresh, began=began) == decision
    limits = Limits(1000, max_cost_usd=1.8)
    assert await desk.asks(asked("new"), limits=limits, began=began) == "run has 1.4"
