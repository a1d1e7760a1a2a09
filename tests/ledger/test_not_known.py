"""What RunComfy does not know ends by no single answer, and what cannot be finished is given up."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import Expired, GivenUp, NotKnownNow
from comfyline.job import JobState
from comfyline.ledger.attempts import KEPT
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import BudgetExceeded, Claimed, Limits, NotOurs
from comfyline.ledger.decision import Decision
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.retention import BETWEEN_LOOKS, is_lost
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import ROOMY, Clock, Desk, asked, output

JOB = asked()
UNKNOWN = NotKnownNow("RunComfy does not know request r now")
DAYS = KEPT.total_seconds()


async def missed(ledger: Ledger, desk: Desk) -> bool:
    attempt = await desk.known(JOB)
    assert attempt.submitted_at is not None
    return await ledger.missing(attempt.id, attempt.submitted_at, UNKNOWN)


async def test_within_seven_days_no_number_of_answers_ends_a_request(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await desk.submitted(JOB)
    for _ in range(27):
        clock.forward(6 * 3600)
        assert not await missed(ledger, desk)
    assert (await desk.known(JOB)).state is JobState.SUBMITTED
    assert [one.checked.key for one in await ledger.unfinished()] == [JOB.key]


async def test_after_seven_days_a_second_look_hours_later_ends_it(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await desk.submitted(JOB)
    clock.forward(DAYS + 60)
    assert not await missed(ledger, desk)
    clock.forward(60)
    assert not await missed(ledger, desk)
    clock.forward(BETWEEN_LOOKS.total_seconds())
    assert await missed(ledger, desk)
    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.EXPIRED, "expired")


async def test_an_answer_in_between_begins_the_count_anew(desk: Desk, ledger: Ledger, clock: Clock):
    attempt_id = await desk.submitted(JOB)
    clock.forward(DAYS - 60)
    assert not await missed(ledger, desk)
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    assert (await desk.known(JOB)).missing_since is None
    clock.forward(2 * BETWEEN_LOOKS.total_seconds())
    assert not await missed(ledger, desk)


async def test_what_is_stored_stays_so_whatever_runcomfy_knows(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await desk.stored(JOB)
    clock.forward(DAYS)
    await missed(ledger, desk)
    clock.forward(DAYS)
    assert await missed(ledger, desk)
    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.PERSISTED, None)


async def test_what_turns_up_after_all_is_stored(desk: Desk, ledger: Ledger):
    attempt_id = await desk.submitted(JOB)
    await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    await ledger.completed(attempt_id, 0.4)
    await ledger.persisted(attempt_id, [output()])
    assert await desk.state(JOB) is JobState.PERSISTED


async def test_what_a_single_answer_once_ended_is_asked_for_again_within_its_days(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await desk.submitted(JOB)
    await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    assert [one.id for one in await ledger.unfinished()] == [attempt_id]
    claim = await desk.claim(JOB, "run-2")
    assert isinstance(claim, NotOurs)
    assert claim.decision is Decision.RESUME
    clock.forward(DAYS)
    assert list(await ledger.unfinished()) == []
    claim = await desk.claim(JOB, "run-2")
    assert isinstance(claim, NotOurs)
    assert claim.decision is Decision.BLOCKED


@given(
    age=st.timedeltas(timedelta(0), timedelta(days=30)),
    unknown=st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_lost_is_what_is_over_its_days_and_was_not_known_hours_ago(
    age: timedelta, unknown: timedelta
):
    now = Clock().time
    lost = is_lost(now - age, now - unknown, now)
    assert lost == (age >= timedelta(days=7) and unknown >= BETWEEN_LOOKS)
    assert timedelta(hours=2) <= BETWEEN_LOOKS


@pytest.mark.parametrize("state", ["submitted", "in_progress", "completed", "expired"])
async def test_what_was_accepted_can_be_given_up_and_counts_as_charged(
    desk: Desk, ledger: Ledger, state: str
):
    attempt_id = await desk.submitted(JOB)
    match state:
        case "in_progress":
            await ledger.observed(attempt_id, JobState.IN_PROGRESS)
        case "completed":
            await ledger.completed(attempt_id, None)
        case "expired":
            await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    await ledger.given_up(attempt_id)

    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.FAILED, GivenUp.kind)
    for run in ("run-1", "run-2"):
        claim = await desk.claim(JOB, run)
        assert isinstance(claim, NotOurs)
        assert claim.decision is Decision.BLOCKED
        assert "--refresh" in str(blocked(claim.attempt))
    tight = Limits(in_flight=9, max_cost_usd=0.9)
    assert await desk.claim(asked("other"), limits=tight) == BudgetExceeded("run", 0.9, 0.5)
    assert isinstance(await desk.claim(JOB, "run-3", refresh=True, limits=ROOMY), Claimed)


async def test_what_is_stored_or_was_never_accepted_cannot_be_given_up(desk: Desk, ledger: Ledger):
    stored = await desk.stored(JOB)
    with pytest.raises(StateConflict):
        await ledger.given_up(stored)
    assert await desk.state(JOB) is JobState.PERSISTED
