"""A doubt: what is kept as evidence, and who may end it."""

import pytest

from comfyline.errors import ComfylineError, InDoubt
from comfyline.job import JobState
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.claims import NotOurs
from comfyline.ledger.decision import LEASE_SECONDS, Decision
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import ROOMY, Clock, Desk, asked

BEFORE = Evidence(mark="m-1", balance_before_usd=12.5)
SEEN = Evidence(how_far="body-sent", reason="ReadTimeout")
LOST = ComfylineError("A person found that it was never accepted")


async def claimed_with(ledger: Ledger, evidence: Evidence) -> int:
    claim = await ledger.claim(
        asked(), run_id="run-1", refresh=False, limits=ROOMY, evidence=evidence
    )
    assert not isinstance(claim, NotOurs)
    return claim.attempt_id  # type: ignore[union-attr]


async def in_doubt(desk: Desk, clock: Clock) -> int:
    attempt_id = await desk.claimed(asked())
    clock.forward(LEASE_SECONDS)
    assert await desk.ledger.end_dead_leases() == 1
    return attempt_id


async def test_what_is_known_after_the_post_is_added_to_what_was_known_before(
    desk: Desk, ledger: Ledger
):
    attempt_id = await claimed_with(ledger, BEFORE)
    assert (await desk.known(asked())).evidence == BEFORE
    await ledger.ended(attempt_id, JobState.IN_DOUBT, InDoubt("no answer"), evidence=SEEN)
    known = await desk.known(asked())
    assert known.state is JobState.IN_DOUBT
    assert known.evidence == Evidence("m-1", "body-sent", "ReadTimeout", 12.5)


async def test_evidence_outlives_the_process_and_the_doubt(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await claimed_with(ledger, BEFORE)
    clock.forward(LEASE_SECONDS)
    await ledger.end_dead_leases()
    assert (await desk.known(asked())).evidence == BEFORE
    await ledger.accepted(attempt_id, "r-1")
    assert (await desk.known(asked())).evidence == BEFORE


async def test_evidence_is_of_the_last_post_only(desk: Desk, ledger: Ledger):
    attempt_id = await claimed_with(ledger, Evidence(mark="m-0", how_far="headers-sent"))
    await ledger.not_sent(attempt_id)
    assert await claimed_with(ledger, BEFORE) == attempt_id
    assert (await desk.known(asked())).evidence == BEFORE


async def test_a_doubt_says_since_when_and_is_told_again_with_better_words(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await in_doubt(desk, clock)
    known = await desk.known(asked())
    assert known.error_kind == "in-doubt"
    assert known.reached[JobState.IN_DOUBT] == clock.time
    assert known.owner is known.lease_until is None
    clock.forward(5)
    await ledger.ended(attempt_id, JobState.IN_DOUBT, InDoubt("HTTP 502"), evidence=SEEN)
    after = await desk.known(asked())
    assert (after.error_message, after.evidence) == ("HTTP 502", SEEN)
    assert after.reached == known.reached


async def test_a_person_who_says_lost_frees_the_job_for_a_new_attempt(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await in_doubt(desk, clock)
    await ledger.lost(attempt_id, LOST)
    known = await desk.known(asked())
    assert (known.state, known.error_message) == (JobState.FAILED, LOST.message)
    assert await desk.claimed(asked(), "run-2") != attempt_id


async def test_a_person_who_says_lost_after_the_answer_came_drops_nothing(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await in_doubt(desk, clock)
    await ledger.accepted(attempt_id, "r-1")
    with pytest.raises(StateConflict, match="is submitted, not in doubt"):
        await ledger.lost(attempt_id, LOST)
    known = await desk.known(asked())
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "r-1")


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.IN_DOUBT}))
async def test_only_a_doubt_can_be_given_up(state: JobState, desk: Desk, ledger: Ledger):
    paths = {
        JobState.PLANNED: [JobState.PLANNED],
        JobState.SUBMITTING: [],
        JobState.PERSISTED: [JobState.SUBMITTED, JobState.COMPLETED, JobState.PERSISTED],
    }
    attempt_id = await desk.claimed(asked())
    for step in paths.get(state, [JobState.SUBMITTED, state]):
        await desk.brought(attempt_id, step)
    with pytest.raises(StateConflict, match="not in doubt"):
        await ledger.lost(attempt_id, LOST)
    assert await desk.state(asked()) is state


async def test_a_request_id_belongs_to_one_attempt_of_one_job(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await desk.submitted(asked("one"), request_id="r-1")
    attempt_id = await in_doubt(desk, clock)
    with pytest.raises(StateConflict, match=r"Request r-1 is that of attempt \d+ already") as error:
        await ledger.accepted(attempt_id, "r-1")
    assert error.value.request_id == "r-1"
    assert await desk.state(asked()) is JobState.IN_DOUBT


async def test_an_answer_ends_the_doubt_that_another_process_began(
    desk: Desk, url: str, clock: Clock
):
    attempt_id = await desk.claimed(asked())
    clock.forward(LEASE_SECONDS)
    there = Ledger(url, "there:2", clock)
    claim = await Desk(there).claim(asked(), "run-2")
    assert isinstance(claim, NotOurs)
    assert claim.decision is Decision.BLOCKED
    await desk.ledger.accepted(attempt_id, "r-1")
    claim = await Desk(there).claim(asked(), "run-2")
    assert isinstance(claim, NotOurs)
    assert claim.decision is Decision.RESUME
    there.close()
