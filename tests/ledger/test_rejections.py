"""What came and was rejected: paid for, never asked for again by itself beyond what is allowed."""

from dataclasses import replace

import pytest

from comfyline.errors import Rejected
from comfyline.job import CheckedJob, ContentChecks, JobState
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import Limits
from comfyline.ledger.decision import Decision, decide
from tests.ledger.conftest import Clock, Desk, asked


def checked(again: int) -> CheckedJob:
    return asked(checks=ContentChecks(not_blank=True, again=again))


async def reject(desk: Desk, job: CheckedJob, run: str, *, refresh: bool = False) -> None:
    """One attempt that is paid for and rejected."""
    attempt_id = await desk.claimed(job, run, refresh=refresh)
    await desk.ledger.accepted(attempt_id, f"of attempt {attempt_id}")
    await desk.ledger.completed(attempt_id, None)
    error = Rejected("The output is blank", hint="It lies in out/rejected.")
    await desk.ledger.ended(attempt_id, JobState.FAILED, error)


@pytest.mark.parametrize("again", [0, 1, 3])
async def test_a_rejected_job_is_asked_for_as_often_as_it_allows_in_whichever_runs(
    desk: Desk, there: Desk, again: int
) -> None:
    job = checked(again)
    for number in range(1 + again):
        # By a process that dies in between as well.
        await reject((desk, there)[number % 2], job, f"run-{number % 2}")
    for run in ("run-0", "run-1", "run-2"):
        assert await desk.asks(job, run) == "BLOCKED"
    known = await desk.known(job)
    assert (known.number, known.rejections) == (1 + again, 1 + again)
    # Also where its cost is not known, under a limit in full.
    assert known.cost_usd is None
    error = blocked(known)
    assert (error.kind, error.request_id) == ("rejected", known.request_id)
    assert "The output is blank. It lies in out/rejected." in error.message


async def test_a_refresh_begins_to_count_anew_and_a_run_refreshes_once(desk: Desk) -> None:
    job = checked(1)
    await reject(desk, job, "run-1")
    await reject(desk, job, "run-1")
    await reject(desk, job, "run-2", refresh=True)
    assert (await desk.known(job)).rejections == 1
    await reject(desk, job, "run-2", refresh=True)
    assert await desk.asks(job, "run-2", refresh=True) == "BLOCKED"
    assert await desk.asks(job, "run-3") == "BLOCKED"


async def test_a_refresh_while_some_are_left_gives_no_more_than_were_left(desk: Desk) -> None:
    await reject(desk, checked(1), "run-1")
    await reject(desk, checked(1), "run-2", refresh=True)
    assert (await desk.known(checked(1))).rejections == 2


async def test_a_claim_that_never_left_costs_none_of_the_attempts(desk: Desk) -> None:
    await reject(desk, checked(1), "run-1")
    await desk.not_sent(await desk.claimed(checked(1), "run-1"))
    assert await desk.asks(checked(1), "run-2") == "CLAIMED"


async def test_what_a_pipeline_allows_is_its_own_and_what_was_rejected_is_spent(desk: Desk) -> None:
    await reject(desk, checked(5), "run-1")
    assert await desk.asks(checked(0), "run-2") == "BLOCKED"
    assert await desk.asks(asked(), "run-2") == "BLOCKED"
    tight = Limits(1000, max_cost_usd=0.9)
    assert await desk.asks(checked(5), "run-1", limits=tight) == "run has 0.5"
    assert await desk.asks(checked(1), "run-2") == "CLAIMED"


async def test_an_uncounted_rejection_is_never_taken_for_none(desk: Desk, clock: Clock) -> None:
    """An attempt that somebody built without its number: the safe side is that one is spent."""
    await reject(desk, checked(0), "run-1")
    known = replace(await desk.known(checked(0)), rejections=0)
    assert decide(known, refresh=False, run_id="run-2", now=clock.time) is Decision.BLOCKED
