"""What RunComfy does not know ends by no single answer, and what cannot be finished is given up."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import Expired, GivenUp, NotKnownNow
from comfyline.job import JobState
from comfyline.ledger.attempts import KEPT
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.retention import BETWEEN_LOOKS, is_lost
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Clock, Desk, asked, output

JOB = asked()
DAYS, HOURS = KEPT.total_seconds(), BETWEEN_LOOKS.total_seconds()


async def missed(desk: Desk) -> bool:
    attempt = await desk.known(JOB)
    assert attempt.submitted_at is not None
    error = NotKnownNow("RunComfy does not know request r now")
    return await desk.ledger.missing(attempt.id, attempt.submitted_at, error)


async def test_a_request_ends_by_no_number_of_answers_before_its_days_are_over(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await desk.submitted(JOB)
    for _ in range(27):
        clock.forward(6 * 3600)
        assert not await missed(desk)
    assert [one.state for one in await ledger.unfinished()] == [JobState.SUBMITTED]
    # An answer in between begins the count anew, and after it a second look hours later ends it.
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    assert (await desk.known(JOB)).missing_since is None
    clock.forward(DAYS)
    for seconds in (60, 60):
        assert not await missed(desk)
        clock.forward(seconds)
    clock.forward(HOURS)
    assert await missed(desk)
    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.EXPIRED, "expired")


async def test_what_is_stored_stays_so_whatever_runcomfy_knows(desk: Desk, clock: Clock):
    await desk.stored(JOB)
    clock.forward(DAYS)
    await missed(desk)
    clock.forward(DAYS)
    assert await missed(desk)
    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.PERSISTED, None)


async def test_what_a_single_answer_once_ended_is_asked_for_again_within_its_days(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await desk.submitted(JOB)
    await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    assert [one.id for one in await ledger.unfinished()] == [attempt_id]
    assert await desk.asks(JOB, "run-2") == "RESUME"
    clock.forward(DAYS)
    assert list(await ledger.unfinished()) == []
    assert await desk.asks(JOB, "run-2") == "BLOCKED"
    # And is stored where it turns up after all.
    await ledger.completed(attempt_id, 0.4)
    await ledger.persisted(attempt_id, [output()])
    assert await desk.state(JOB) is JobState.PERSISTED


@given(
    age=st.timedeltas(timedelta(0), timedelta(days=30)),
    unknown=st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_lost_is_what_is_over_its_days_and_was_not_known_hours_ago(
    age: timedelta, unknown: timedelta
):
    now = Clock().time
    lost = is_lost(now - age, now - unknown, now)
    assert lost == (age >= timedelta(days=7) and unknown >= timedelta(hours=3))


async def test_what_was_accepted_can_be_given_up_and_counts_as_charged(desk: Desk, ledger: Ledger):
    for state in ("submitted", "in_progress", "completed", "expired"):
        attempt_id = await desk.submitted(asked(state), "of other money")
        await desk.brought(attempt_id, JobState(state))
        await ledger.given_up(attempt_id)
        assert await desk.state(asked(state)) is JobState.FAILED
    await ledger.given_up(await desk.submitted(JOB))

    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.FAILED, GivenUp.kind)
    assert "--refresh" in str(blocked(known))
    for run in ("run-1", "run-2"):
        assert await desk.asks(JOB, run) == "BLOCKED"
    assert await desk.asks(asked("other"), limits=Limits(9, max_cost_usd=0.9)) == "run has 0.5"
    assert await desk.asks(JOB, "run-3", refresh=True) == "CLAIMED"


async def test_what_is_stored_cannot_be_given_up(desk: Desk, ledger: Ledger):
    stored = await desk.stored(JOB)
    with pytest.raises(StateConflict):
        await ledger.given_up(stored)
    assert await desk.state(JOB) is JobState.PERSISTED
