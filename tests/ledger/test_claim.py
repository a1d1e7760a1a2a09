"""The claim before the POST: who gets it, and why everybody else does not."""

import pytest

from comfyline.errors import Cancelled, Expired, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.block_reasons import blocked
from comfyline.ledger.claims import AtCapacity, Claim, Claimed, Limits, NotOurs
from comfyline.ledger.decision import LEASE_SECONDS, Decision
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from tests.ledger.conftest import Clock, Desk, asked


def decision(claim: Claim) -> Decision:
    assert isinstance(claim, NotOurs)
    return claim.decision


async def test_the_intent_is_committed_before_the_claim_is_given(
    desk: Desk, url: str, clock: Clock
):
    job = asked()
    assert await desk.claim(job) == Claimed(attempt_id=1, number=1)
    other = Ledger(url, "there:2", clock)
    seen = await Desk(other).known(job)
    other.close()
    assert (seen.state, seen.owner) == (JobState.SUBMITTING, "here:1")
    assert seen.lease_until is not None
    assert (seen.lease_until - clock.time).total_seconds() == LEASE_SECONDS


async def test_a_second_asker_waits_while_the_lease_runs(desk: Desk, clock: Clock):
    job = asked()
    await desk.claimed(job)
    clock.forward(LEASE_SECONDS - 1)
    assert decision(await desk.claim(job, "run-2")) is Decision.WAIT


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_dead_claim_is_in_doubt_and_never_submitted_again_not_even_by_refresh(
    desk: Desk, clock: Clock, *, refresh: bool
):
    job = asked()
    await desk.claimed(job)
    clock.forward(LEASE_SECONDS)
    for run in ("run-1", "run-2"):
        assert decision(await desk.claim(job, run, refresh=refresh)) is Decision.BLOCKED
    known = await desk.known(job)
    assert (known.state, known.number) == (JobState.IN_DOUBT, 1)
    assert blocked(known).kind == "in-doubt"


async def test_what_never_left_is_claimed_again_as_the_same_attempt(desk: Desk, ledger: Ledger):
    first = await desk.claimed(asked(price=0.5))
    await ledger.not_sent(first)
    later = asked(price=0.75, pipeline="other", item="dog")
    assert await desk.claim(later, "run-2") == Claimed(first, 1)
    [known] = await ledger.list(Selection(pipeline="other"))
    assert (known.run_id, known.checked) == ("run-2", later)


@pytest.mark.parametrize(
    "state",
    [JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS, JobState.COMPLETED],
)
@pytest.mark.parametrize("refresh", [False, True])
async def test_what_is_under_way_is_resumed_also_by_refresh(
    state: JobState, desk: Desk, *, refresh: bool
):
    job = asked()
    attempt_id = await desk.submitted(job)
    await desk.brought(attempt_id, state)
    assert decision(await desk.claim(job, "run-2", refresh=refresh)) is Decision.RESUME


async def test_what_is_stored_is_reused(desk: Desk):
    job = asked()
    await desk.stored(job)
    assert decision(await desk.claim(job, "run-2")) is Decision.REUSE


async def test_refresh_makes_a_new_attempt_and_never_twice_within_one_run(
    desk: Desk, ledger: Ledger
):
    job = asked()
    await desk.stored(job)
    again = await desk.claim(job, "run-2", refresh=True)
    assert isinstance(again, Claimed)
    assert again.number == 2
    await ledger.accepted(again.attempt_id, "r-2")
    assert decision(await desk.claim(job, "run-2", refresh=True)) is Decision.RESUME
    await ledger.completed(again.attempt_id, 0.4)
    await ledger.persisted(again.attempt_id, (await ledger.list())[1].outputs)
    assert decision(await desk.claim(job, "run-2", refresh=True)) is Decision.REUSE
    assert len(await ledger.list()) == 2


async def test_a_refresh_that_never_left_does_not_hide_what_is_stored(desk: Desk, ledger: Ledger):
    job = asked()
    first = await desk.stored(job)
    refresh = await desk.claimed(job, "run-2", refresh=True)
    await ledger.not_sent(refresh)
    assert (await desk.known(job)).id == first
    assert decision(await desk.claim(job, "run-3")) is Decision.REUSE
    # The next refresh takes the attempt that is still open.
    assert await desk.claim(job, "run-4", refresh=True) == Claimed(refresh, 2)


@pytest.mark.parametrize("refresh", [False, True])
async def test_a_run_submits_a_job_once_also_when_another_run_has_tried_it_since(
    desk: Desk, ledger: Ledger, *, refresh: bool
):
    job = asked()
    for run in ("run-1", "run-2"):
        attempt_id = await desk.submitted(job, run)
        await ledger.ended(attempt_id, JobState.FAILED, GenerationFailed("no"))
    assert decision(await desk.claim(job, "run-1", refresh=refresh)) is Decision.BLOCKED
    await ledger.not_sent(await desk.claimed(job, "run-3"))
    assert decision(await desk.claim(job, "run-1", refresh=refresh)) is Decision.BLOCKED


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
@pytest.mark.parametrize("cost", [None, 0.0])
async def test_what_ended_without_a_charge_is_tried_again_by_the_next_run_only(
    end: JobState, cost: float | None, desk: Desk, ledger: Ledger
):
    job = asked()
    attempt_id = await desk.submitted(job)
    await ledger.ended(attempt_id, end, GenerationFailed("no"), cost_usd=cost)
    assert decision(await desk.claim(job, "run-1", refresh=True)) is Decision.BLOCKED
    again = await desk.claim(job, "run-2")
    assert isinstance(again, Claimed)
    assert again.number == 2


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_what_ended_with_a_charge_is_asked_for_again_by_refresh_only(
    end: JobState, desk: Desk, ledger: Ledger
):
    job = asked()
    attempt_id = await desk.submitted(job)
    await ledger.ended(attempt_id, end, Cancelled("It was stopped"), cost_usd=0.3)
    claim = await desk.claim(job, "run-2")
    assert decision(claim) is Decision.BLOCKED
    assert "charged $0.3" in str(blocked(await desk.known(job)))
    assert "--refresh" in blocked(await desk.known(job)).hint
    assert isinstance(await desk.claim(job, "run-3", refresh=True), Claimed)


async def test_what_expired_is_asked_for_again_by_refresh_only(
    desk: Desk, ledger: Ledger, clock: Clock
):
    job = asked()
    attempt_id = await desk.submitted(job)
    clock.forward(7 * 24 * 3600)
    await ledger.ended(attempt_id, JobState.EXPIRED, Expired("gone"))
    assert decision(await desk.claim(job, "run-2")) is Decision.BLOCKED
    assert blocked(await desk.known(job)).kind == "expired"
    assert isinstance(await desk.claim(job, "run-2", refresh=True), Claimed)


async def test_no_more_are_in_flight_than_allowed_over_all_processes(
    desk: Desk, ledger: Ledger, url: str, clock: Clock
):
    two = Limits(in_flight=2)
    other = Ledger(url, "there:2", clock)
    sent = await desk.submitted(asked("one"))
    assert isinstance(await Desk(other).claim(asked("two"), limits=two), Claimed)
    assert isinstance(await desk.claim(asked("three"), limits=two), AtCapacity)
    assert isinstance(await Desk(other).claim(asked("three"), limits=two), AtCapacity)
    # What is completed needs no slot any more, although it is not stored yet.
    await ledger.completed(sent, 0.4)
    assert isinstance(await Desk(other).claim(asked("three"), limits=two), Claimed)
    other.close()


async def test_a_request_holds_its_slot_until_somebody_sees_its_end(
    desk: Desk, ledger: Ledger, clock: Clock
):
    one = Limits(in_flight=1)
    sent = await desk.submitted(asked("slow"))
    # Far beyond the timeout of any job: nobody has seen its end.
    clock.forward(6 * 24 * 3600)
    assert isinstance(await desk.claim(asked("quick"), limits=one), AtCapacity)
    await ledger.completed(sent, 0.4)
    assert isinstance(await desk.claim(asked("quick"), limits=one), Claimed)


async def test_a_request_of_which_nobody_ever_heard_again_holds_no_slot_after_seven_days(
    desk: Desk, clock: Clock
):
    one = Limits(in_flight=1)
    await desk.submitted(asked("slow"))
    clock.forward(7 * 24 * 3600 + 1)
    assert isinstance(await desk.claim(asked("quick"), limits=one), Claimed)


async def test_a_slot_can_be_freed_of_a_request_that_takes_no_room_at_runcomfy(
    desk: Desk, ledger: Ledger
):
    one = Limits(in_flight=1)
    sent = await desk.submitted(asked("gone"))
    assert isinstance(await desk.claim(asked("quick"), limits=one), AtCapacity)
    await ledger.free_slot(sent)
    assert await ledger.slot_holders() == []
    assert isinstance(await desk.claim(asked("quick"), limits=one), Claimed)
    assert (await desk.known(asked("gone"))).state is JobState.SUBMITTED


async def test_who_holds_the_slots_is_told_and_whether_anybody_will_see_their_end(
    desk: Desk, ledger: Ledger, clock: Clock
):
    abandoned, watched = asked("abandoned"), asked("watched")
    first = await desk.submitted(abandoned)
    assert await ledger.acquire(watched.key)
    second = await desk.submitted(watched, "run-2")
    sending = await desk.claim(asked("sending"), "run-3")
    assert isinstance(sending, Claimed)
    holders = await ledger.slot_holders()
    assert [(one.attempt_id, one.run_id, one.is_watched) for one in holders] == [
        (first, "run-1", False),
        (second, "run-2", True),
        (sending.attempt_id, "run-3", True),
    ]
    clock.forward(46)
    assert [one.is_watched for one in await ledger.slot_holders()] == [False, False, True]


async def test_a_submission_under_way_holds_its_slot(desk: Desk, clock: Clock):
    one = Limits(in_flight=1)
    await desk.claim(asked("one"), limits=one)
    clock.forward(30)
    assert isinstance(await desk.claim(asked("two"), limits=one), AtCapacity)


async def test_nothing_is_written_when_a_claim_is_refused(desk: Desk, ledger: Ledger):
    await desk.claim(asked(), limits=Limits(1000, 0.1))
    await desk.claim(asked(), limits=Limits(0))
    assert not await ledger.list()
