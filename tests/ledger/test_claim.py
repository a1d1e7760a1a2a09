"""The claim before the POST: who gets it, and why everybody else does not."""

from unittest.mock import ANY

import pytest

from comfyline.errors import Cancelled, Expired, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import Claimed, Limits
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from tests.ledger.conftest import Clock, Desk, asked

JOB = asked()
ONE = Limits(in_flight=1)
DAY = 24 * 3600


async def test_the_intent_is_committed_before_the_claim_is_given(
    desk: Desk, there: Desk, clock: Clock
):
    assert await desk.claim(JOB) == Claimed(1, 1, ANY)
    seen = await there.known(JOB)
    assert (seen.state, seen.owner) == (JobState.SUBMITTING, "here:1")
    assert seen.lease_until is not None
    assert (seen.lease_until - clock.time).total_seconds() == LEASE_SECONDS


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_claim_is_waited_for_and_then_in_doubt_and_never_submitted_again(
    desk: Desk, clock: Clock, *, refresh: bool
):
    await desk.claimed(JOB)
    clock.forward(LEASE_SECONDS - 1)
    assert await desk.asks(JOB, "run-2", refresh=refresh) == "WAIT"
    clock.forward(1)
    for run in ("run-1", "run-2"):
        assert await desk.asks(JOB, run, refresh=refresh) == "BLOCKED"
    known = await desk.known(JOB)
    assert (known.state, known.number) == (JobState.IN_DOUBT, 1)
    assert blocked(known).kind == "in-doubt"


async def test_what_never_left_is_claimed_again_as_the_same_attempt(desk: Desk, ledger: Ledger):
    first = await desk.claimed(asked(price=0.5))
    await desk.not_sent(first)
    later = asked(price=0.75, pipeline="other", item="dog")
    assert await desk.claim(later, "run-2") == Claimed(first, 1, ANY)
    [known] = await ledger.list(Selection(pipeline="other"))
    assert (known.run_id, known.checked) == ("run-2", later)


@pytest.mark.parametrize("refresh", [False, True])
async def test_what_is_under_way_is_resumed_also_by_refresh(desk: Desk, *, refresh: bool):
    attempt_id = await desk.submitted(JOB)
    for state in ("submitted", "in_queue", "in_progress", "completed"):
        await desk.brought(attempt_id, JobState(state))
        assert await desk.asks(JOB, "run-2", refresh=refresh) == "RESUME"


async def test_what_is_stored_is_reused_and_refreshed_once_within_a_run(desk: Desk, ledger: Ledger):
    await desk.stored(JOB)
    assert await desk.asks(JOB, "run-2") == "REUSE"
    again = await desk.submitted(JOB, "run-2", refresh=True)
    assert await desk.asks(JOB, "run-2", refresh=True) == "RESUME"
    await ledger.completed(again, 0.4)
    await ledger.persisted(again, (await ledger.list())[1].outputs)
    assert await desk.asks(JOB, "run-2", refresh=True) == "REUSE"
    assert [one.number for one in await ledger.list()] == [2, 1]


async def test_a_refresh_that_never_left_does_not_hide_what_is_stored(desk: Desk):
    first = await desk.stored(JOB)
    refresh = await desk.claimed(JOB, "run-2", refresh=True)
    await desk.not_sent(refresh)
    assert (await desk.known(JOB)).id == first
    assert await desk.asks(JOB, "run-3") == "REUSE"
    # The next refresh takes the attempt that is still open.
    assert await desk.claim(JOB, "run-4", refresh=True) == Claimed(refresh, 2, ANY)


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_run_submits_a_job_once_also_when_another_run_has_tried_it_since(
    desk: Desk, *, refresh: bool
):
    for run in ("run-1", "run-2"):
        await desk.failed(JOB, run)
    assert await desk.asks(JOB, "run-1", refresh=refresh) == "BLOCKED"
    await desk.not_sent(await desk.claimed(JOB, "run-3"))
    assert await desk.asks(JOB, "run-1", refresh=refresh) == "BLOCKED"


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_what_ended_is_tried_again_by_the_next_run_where_it_cost_nothing(
    end: JobState, desk: Desk, ledger: Ledger
):
    for cost in (None, 0.0):
        job = asked(f"{cost}")
        await ledger.ended(await desk.submitted(job), end, GenerationFailed("no"), cost_usd=cost)
        assert await desk.asks(job, "run-1", refresh=True) == "BLOCKED"
        assert await desk.asks(job, "run-2") == "CLAIMED"
    attempt_id = await desk.submitted(JOB)
    await ledger.ended(attempt_id, end, Cancelled("It was stopped"), cost_usd=0.3)
    assert await desk.asks(JOB, "run-2") == "BLOCKED"
    error = blocked(await desk.known(JOB))
    assert "charged $0.3" in str(error)
    assert "--refresh" in error.hint
    assert await desk.asks(JOB, "run-3", refresh=True) == "CLAIMED"


async def test_what_expired_is_asked_for_again_by_refresh_only(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await desk.submitted(JOB)
    clock.forward(7 * DAY)
    await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    assert await desk.asks(JOB, "run-2") == "BLOCKED"
    assert blocked(await desk.known(JOB)).kind == "expired"
    assert await desk.asks(JOB, "run-2", refresh=True) == "CLAIMED"


async def test_no_more_are_in_flight_than_allowed_over_all_processes(
    desk: Desk, ledger: Ledger, there: Desk
):
    two = Limits(in_flight=2)
    sent = await desk.submitted(asked("one"))
    assert await there.asks(asked("two"), limits=two) == "CLAIMED"
    for one in (desk, there):
        assert await one.asks(asked("three"), limits=two) == "AtCapacity"
    # What is completed needs no slot any more, although it is not stored yet.
    await ledger.completed(sent, 0.4)
    assert await there.asks(asked("three"), limits=two) == "CLAIMED"


async def test_a_request_holds_its_slot_until_somebody_sees_its_end_or_for_seven_days(
    desk: Desk, clock: Clock
):
    await desk.submitted(JOB)
    clock.forward(7 * DAY - 1)
    assert await desk.asks(asked("quick"), limits=ONE) == "AtCapacity"
    clock.forward(2)
    assert await desk.asks(asked("quick"), limits=ONE) == "CLAIMED"
    clock.forward(LEASE_SECONDS - 1)
    assert await desk.asks(asked("another"), limits=ONE) == "AtCapacity"


async def test_what_is_in_doubt_may_be_at_runcomfy_and_holds_its_slot_for_as_long_as_a_job_takes(
    desk: Desk, ledger: Ledger, clock: Clock
):
    limits = Limits(1, timeout=600)
    attempt_id = await desk.claimed(JOB, limits=limits)
    clock.forward(LEASE_SECONDS)
    assert await desk.asks(asked("quick"), limits=limits) == "AtCapacity"
    assert [one.is_in_doubt for one in await ledger.slot_holders()] == [True]
    clock.forward(600 - LEASE_SECONDS - 1)
    assert await desk.asks(asked("quick"), limits=limits) == "AtCapacity"
    await ledger.lost(attempt_id, GenerationFailed("not there"))
    assert await desk.asks(asked("quick"), limits=limits) == "CLAIMED"
    clock.forward(600)
    assert await desk.asks(asked("another"), limits=limits) == "CLAIMED"


async def test_a_doubt_that_ends_well_holds_its_slot_like_any_request(desk: Desk, clock: Clock):
    limits = Limits(1, timeout=600)
    attempt_id = await desk.claimed(JOB, limits=limits)
    clock.forward(LEASE_SECONDS)
    assert await desk.asks(JOB, limits=limits) == "BLOCKED"
    await desk.ledger.accepted(attempt_id, "r-1")
    clock.forward(DAY)
    assert await desk.asks(asked("quick"), limits=limits) == "AtCapacity"


async def test_a_slot_can_be_freed_of_a_request_that_takes_no_room_at_runcomfy(
    desk: Desk, ledger: Ledger
):
    await ledger.free_slot(await desk.submitted(JOB))
    assert await ledger.slot_holders() == []
    assert await desk.asks(asked("quick"), limits=ONE) == "CLAIMED"
    assert await desk.state(JOB) is JobState.SUBMITTED


async def test_who_holds_the_slots_is_told_and_whether_anybody_will_see_their_end(
    desk: Desk, ledger: Ledger, clock: Clock
):
    abandoned = await desk.submitted(asked("abandoned"))
    assert await ledger.acquire(JOB.key)
    watched = await desk.submitted(JOB, "run-2")
    sending = await desk.claimed(asked("sending"), "run-3")
    holders = await ledger.slot_holders()
    assert [(one.attempt_id, one.run_id, one.is_watched) for one in holders] == [
        (abandoned, "run-1", False),
        (watched, "run-2", True),
        (sending, "run-3", True),
    ]
    clock.forward(46)
    assert [one.is_watched for one in await ledger.slot_holders()] == [False, False, True]


async def test_nothing_is_written_when_a_claim_is_refused(desk: Desk, ledger: Ledger):
    assert await desk.asks(JOB, limits=Limits(1000, 0.1)) == "run has 0"
    assert await desk.asks(JOB, limits=Limits(0)) == "AtCapacity"
    assert not await ledger.list()


async def test_a_run_that_several_processes_share_holds_its_own_limit_over_them(
    desk: Desk, there: Desk
):
    two = Limits(in_flight=9, in_flight_of_run=2, timeout=60)
    first = await desk.submitted(asked("1"), limits=two)
    assert await there.asks(asked("2"), limits=two) == "CLAIMED"
    assert await desk.asks(asked("3"), limits=two) == "AtCapacity"
    assert await there.asks(asked("3"), limits=two) == "AtCapacity"
    assert await there.asks(asked("4"), "run-2", limits=two) == "CLAIMED"
    await desk.ledger.completed(first, 0.4)
    assert await there.asks(asked("3"), limits=two) == "CLAIMED"


@pytest.mark.parametrize("share", ["", "client="])
async def test_what_a_run_waits_for_no_longer_holds_no_other_job_of_it_up(
    desk: Desk, clock: Clock, share: str
):
    limits = Limits(in_flight=2, in_flight_of_run=1, timeout=60)
    await desk.submitted(asked("1"), limits=limits)
    assert await desk.asks(asked("2"), limits=limits, share=share) == "AtCapacity"
    clock.forward(61)
    assert await desk.asks(asked("2"), limits=limits, share=share) == "CLAIMED"
    # RunComfy has it all the same.
    assert await desk.asks(asked("3"), "run-2", limits=limits, share=share) == "AtCapacity"
