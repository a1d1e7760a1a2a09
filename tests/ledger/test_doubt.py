"""A doubt: what is kept as evidence, and who may end it."""

from dataclasses import replace

import pytest

from comfyline.errors import ComfylineError, InDoubt
from comfyline.job import JobState
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Clock, Desk, asked

JOB = asked()
BALANCE = 12.5
SEEN = Evidence(how_far="body-sent", reason="ReadTimeout")
LOST = ComfylineError("A person found that it was never accepted")


@pytest.fixture
async def doubt(desk: Desk, clock: Clock) -> int:
    """The id of an attempt whose process died with its POST."""
    attempt_id = await desk.claimed(JOB, balance_usd=BALANCE)
    clock.forward(LEASE_SECONDS)
    assert await desk.ledger.end_dead_leases() == 1
    return attempt_id


async def test_a_doubt_says_since_when_and_is_told_again_with_better_words(
    doubt: int, desk: Desk, ledger: Ledger, clock: Clock
):
    known = await desk.known(JOB)
    assert (known.error_kind, known.evidence.balance_before_usd) == ("in-doubt", BALANCE)
    assert known.reached[JobState.IN_DOUBT] == clock.time
    assert known.owner is known.lease_until is None
    clock.forward(5)
    await ledger.ended(doubt, JobState.IN_DOUBT, InDoubt("HTTP 502"), evidence=SEEN)
    after = await desk.known(JOB)
    assert (after.error_message, after.evidence.reason) == ("HTTP 502", "ReadTimeout")
    assert after.reached == known.reached


async def test_an_answer_ends_the_doubt_that_another_process_began(
    doubt: int, desk: Desk, there: Desk
):
    assert await there.asks(JOB, "run-2") == "BLOCKED"
    await desk.ledger.accepted(doubt, "r-1")
    assert await there.asks(JOB, "run-2") == "RESUME"
    known = await desk.known(JOB)
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "r-1")
    assert known.evidence.balance_before_usd == BALANCE
    assert known.error_kind is known.error_message is known.owner is known.lease_until is None
    with pytest.raises(StateConflict, match="is submitted, not in doubt"):
        await desk.ledger.lost(doubt, LOST)
    assert await desk.state(JOB) is JobState.SUBMITTED


async def test_a_person_who_says_lost_frees_the_job_for_a_new_attempt(
    doubt: int, desk: Desk, ledger: Ledger
):
    await ledger.lost(doubt, LOST)
    await ledger.lost(doubt, LOST)
    known = await desk.known(JOB)
    assert (known.state, known.error_message) == (JobState.FAILED, LOST.message)
    assert await desk.claimed(JOB, "run-2") != doubt
    # Its answer comes all the same: it is paid for after all.
    await ledger.accepted(doubt, "r-3")
    known = await desk.known(JOB)
    assert (known.id, known.state, known.request_id) == (doubt, JobState.SUBMITTED, "r-3")
    assert known.submitted_at == known.claimed_at


async def test_a_request_id_belongs_to_one_attempt_of_one_job(
    doubt: int, desk: Desk, ledger: Ledger
):
    await desk.submitted(asked("one"), request_id="r-1")
    with pytest.raises(StateConflict, match=r"Request r-1 already belongs to attempt \d+") as error:
        await ledger.accepted(doubt, "r-1")
    assert error.value.request_id == "r-1"
    assert await desk.state(JOB) is JobState.IN_DOUBT


async def test_what_never_left_ends_its_doubt_without_a_charge(doubt: int, desk: Desk):
    await desk.not_sent(doubt)
    known = await desk.known(JOB)
    assert (known.state, known.error_kind) == (JobState.FAILED, "not-sent")
    assert await desk.claimed(JOB, "run-2") != doubt


async def test_evidence_is_of_the_last_post_and_what_is_known_after_it_is_added(
    desk: Desk, ledger: Ledger
):
    attempt_id = await desk.claimed(JOB, balance_usd=99)
    first = (await desk.known(JOB)).evidence
    await desk.not_sent(attempt_id)
    assert await desk.claimed(JOB, balance_usd=BALANCE) == attempt_id
    before = (await desk.known(JOB)).evidence
    assert before == Evidence(mark=before.mark, balance_before_usd=BALANCE)
    assert before.mark != first.mark
    await ledger.ended(attempt_id, JobState.IN_DOUBT, InDoubt("no answer"), evidence=SEEN)
    seen = replace(SEEN, mark=before.mark, balance_before_usd=BALANCE)
    assert (await desk.known(JOB)).evidence == seen


async def test_only_a_doubt_can_be_lost(desk: Desk, ledger: Ledger):
    paths = {
        JobState.PLANNED: [JobState.PLANNED],
        JobState.SUBMITTING: [],
        JobState.PERSISTED: [JobState.SUBMITTED, JobState.COMPLETED, JobState.PERSISTED],
    }
    for state in set(JobState) - {JobState.IN_DOUBT}:
        attempt_id = await desk.claimed(asked(state))
        for step in paths.get(state, [JobState.SUBMITTED, state]):
            await desk.brought(attempt_id, step)
        with pytest.raises(StateConflict, match="not in doubt"):
            await ledger.lost(attempt_id, LOST)
        assert await desk.state(asked(state)) is state
