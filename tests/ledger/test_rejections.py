"""What came and was rejected: paid for, never asked for again by itself beyond what is allowed."""

import pytest

from comfyline.errors import Rejected
from comfyline.job import CheckedJob, ContentChecks, JobState
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import BudgetExceeded, Claimed, Limits, NotOurs
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import ROOMY, Clock, Desk, asked


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
    desk: Desk, again: int
) -> None:
    job = checked(again)
    for number in range(1 + again):
        await reject(desk, job, f"run-{number % 2}")

    for run in ("run-0", "run-1", "run-2"):
        claim = await desk.claim(job, run)
        assert isinstance(claim, NotOurs)
        assert claim.decision is Decision.BLOCKED
        assert (claim.attempt.number, claim.attempt.rejections) == (1 + again, 1 + again)


async def test_a_process_that_dies_in_between_leaves_the_number_to_the_next(
    desk: Desk, url: str, clock: Clock
) -> None:
    job = checked(1)
    await reject(desk, job, "run-1")
    next_process = Ledger(url, "there:2", clock)
    await reject(Desk(next_process), job, "run-2")
    assert isinstance(await Desk(next_process).claim(job, "run-2"), NotOurs)
    next_process.close()


async def test_what_is_rejected_blocks_also_where_its_cost_is_not_known(desk: Desk) -> None:
    job = checked(0)
    await reject(desk, job, "run-1")

    known = await desk.known(job)
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

    assert isinstance(await desk.claim(job, "run-2", refresh=True), NotOurs)
    assert isinstance(await desk.claim(job, "run-3"), NotOurs)


async def test_a_refresh_while_some_are_left_gives_no_more_than_were_left(desk: Desk) -> None:
    job = checked(1)
    await reject(desk, job, "run-1")
    await reject(desk, job, "run-2", refresh=True)

    assert (await desk.known(job)).rejections == 2


async def test_a_claim_that_never_left_costs_none_of_the_attempts(desk: Desk) -> None:
    job = checked(1)
    await reject(desk, job, "run-1")
    await desk.ledger.not_sent(await desk.claimed(job, "run-1"))

    assert isinstance(await desk.claim(job, "run-2"), Claimed)


async def test_a_pipeline_that_allows_for_none_is_not_bound_by_one_that_did(desk: Desk) -> None:
    await reject(desk, checked(5), "run-1")

    assert isinstance(await desk.claim(checked(0), "run-2"), NotOurs)
    assert isinstance(await desk.claim(asked(), "run-2"), NotOurs)
    assert isinstance(await desk.claim(checked(1), "run-2"), Claimed)


async def test_a_rejected_attempt_of_unknown_cost_counts_in_full_under_a_limit(desk: Desk) -> None:
    job = checked(5)
    await reject(desk, job, "run-1")

    tight = Limits(ROOMY.in_flight, max_cost_usd=0.9)
    assert isinstance(await desk.claim(job, "run-1", limits=tight), BudgetExceeded)


async def test_an_uncounted_rejection_is_never_taken_for_none(desk: Desk, clock: Clock) -> None:
    """An attempt that somebody built without its number: the safe side is that one is spent."""
    job = checked(0)
    await reject(desk, job, "run-1")
    known = await desk.known(job)

    object.__setattr__(known, "rejections", 0)
    assert decide(known, refresh=False, run_id="run-2", now=clock.time) is Decision.BLOCKED
