"""Every step of an attempt: what the ledger takes, what it refuses, what it leaves as it is."""

from collections.abc import Sequence
from datetime import timedelta, timezone

import pytest

from comfyline.errors import Cancelled, ComfylineError, GenerationFailed
from comfyline.job import ALLOWED, JobState
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.claims import BudgetExceeded, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Clock, Desk, asked

PATHS: dict[JobState, Sequence[JobState]] = {JobState.PLANNED: ()}
while len(PATHS) < len(JobState):
    for here, path in list(PATHS.items()):
        for after in ALLOWED[here]:
            PATHS.setdefault(after, (*path, after))


@pytest.mark.parametrize("start", JobState)
async def test_exactly_the_allowed_steps_are_taken(start: JobState, ledger: Ledger, desk: Desk):
    for number, to in enumerate(JobState):
        job = asked(f"{start} to {to} {number}")
        attempt_id = await desk.claimed(job)
        await ledger.not_sent(attempt_id)
        for state in PATHS[start]:
            await desk.brought(attempt_id, state)
        if to is start or to in ALLOWED[start]:
            await desk.brought(attempt_id, to)
            assert await desk.state(job) is to
        else:
            with pytest.raises(StateConflict, match="cannot go"):
                await desk.brought(attempt_id, to)
            assert await desk.state(job) is start


async def test_each_step_leaves_its_time(desk: Desk, ledger: Ledger, clock: Clock):
    job = asked()
    attempt_id = await desk.submitted(job)
    clock.forward(10)
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    reached = (await desk.known(job)).reached
    assert list(reached) == ["planned", "submitting", "submitted", "in_progress"]
    assert reached[JobState.IN_PROGRESS] == clock.time
    assert (reached[JobState.IN_PROGRESS] - reached[JobState.SUBMITTED]).total_seconds() == 10


async def test_the_request_id_is_there_after_the_ledger_is_opened_anew(
    desk: Desk, ledger: Ledger, url: str, clock: Clock
):
    job = asked()
    await desk.submitted(job, request_id="r-77")
    ledger.close()
    again = Ledger(url, "here:2", clock)
    known = (await again.find([job.key]))[job.key]
    again.close()
    assert (known.request_id, known.state) == ("r-77", JobState.SUBMITTED)
    assert known.checked == job


async def test_a_late_answer_ends_the_doubt_and_its_error(desk: Desk, ledger: Ledger, clock: Clock):
    job = asked()
    attempt_id = await desk.claimed(job)
    clock.forward(61)
    assert await ledger.end_dead_leases() == 1
    assert await desk.state(job) is JobState.IN_DOUBT
    await ledger.accepted(attempt_id, "r-9")
    known = await desk.known(job)
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "r-9")
    assert known.error_kind is known.error_message is known.owner is known.lease_until is None


async def test_the_same_request_id_again_changes_nothing_wherever_the_attempt_stands(
    desk: Desk, ledger: Ledger, clock: Clock
):
    job = asked()
    attempt_id = await desk.submitted(job, request_id="r-1")
    first = clock.time
    await ledger.completed(attempt_id, 0.4)
    clock.forward(5)
    assert await ledger.accepted(attempt_id, "r-1") == first
    assert await desk.state(job) is JobState.COMPLETED


async def test_a_request_id_is_never_overwritten_by_another(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.submitted(job, request_id="r-1")
    with pytest.raises(StateConflict) as refused:
        await ledger.accepted(attempt_id, "r-2")
    assert refused.value.request_id == "r-2"
    assert (await desk.known(job)).request_id == "r-1"


async def test_an_answer_that_comes_after_the_human_one_is_paid_for_after_all(
    desk: Desk, ledger: Ledger, clock: Clock
):
    job = asked()
    attempt_id = await desk.claimed(job)
    clock.forward(61)
    await ledger.end_dead_leases()
    await ledger.ended(attempt_id, JobState.FAILED, ComfylineError("Somebody said it was lost"))
    await ledger.accepted(attempt_id, "r-3")
    known = await desk.known(job)
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "r-3")
    assert known.submitted_at == known.claimed_at


async def test_what_never_left_ends_its_doubt_without_a_charge(
    desk: Desk, ledger: Ledger, clock: Clock
):
    job = asked()
    attempt_id = await desk.claimed(job)
    clock.forward(61)
    await ledger.end_dead_leases()
    await ledger.not_sent(attempt_id)
    known = await desk.known(job)
    assert (known.state, known.error_kind) == (JobState.FAILED, "not-sent")
    # A later run may ask for it, as for anything that cost nothing.
    assert await desk.claimed(job, "run-2") != attempt_id


async def test_an_older_answer_moves_nothing_back(desk: Desk, ledger: Ledger, clock: Clock):
    job = asked()
    attempt_id = await desk.stored(job)
    before = await desk.known(job)
    clock.forward(5)
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    await ledger.completed(attempt_id, None)
    assert await desk.known(job) == before


async def test_a_known_cost_is_not_forgotten_by_an_answer_without_one(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.submitted(job)
    await ledger.completed(attempt_id, 0.25)
    await ledger.completed(attempt_id, None)
    assert (await desk.known(job)).cost_usd == 0.25


async def test_what_two_processes_see_end_ends_once(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.submitted(job)
    for _ in range(2):
        await ledger.ended(attempt_id, JobState.CANCELLED, Cancelled("It was cancelled"))
    with pytest.raises(StateConflict):
        await ledger.completed(attempt_id, 0.5)
    known = await desk.known(job)
    assert (known.state, known.error_message) == (JobState.CANCELLED, "It was cancelled")


async def test_a_failure_can_carry_what_it_cost(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.submitted(job)
    await ledger.ended(attempt_id, JobState.FAILED, GenerationFailed("no"), cost_usd=0.1)
    assert (await desk.known(job)).cost_usd == 0.1


async def test_unfinished_is_what_was_paid_for_and_is_not_stored_oldest_first(
    desk: Desk, ledger: Ledger, clock: Clock
):
    ids = []
    for prompt in ("first", "second", "third"):
        clock.forward(1)
        ids.append(await desk.submitted(asked(prompt), request_id=prompt))
    await ledger.completed(ids[0], 0.4)
    await desk.claimed(asked("still submitting"))
    await ledger.ended(ids[1], JobState.FAILED, GenerationFailed("no"))
    await desk.stored(asked("all there"))
    left = await ledger.unfinished()
    assert [attempt.request_id for attempt in left] == ["first", "third"]


async def test_the_list_is_newest_first_and_chosen_by_state_and_pipeline(
    desk: Desk, ledger: Ledger
):
    await desk.submitted(asked("one"))
    await desk.stored(asked("two", pipeline="other"))
    everything = await ledger.list()
    assert [attempt.checked.job.pipeline for attempt in everything] == ["other", "scenes"]
    assert [a.state for a in await ledger.list(Selection(state=JobState.PERSISTED))] == [
        "persisted"
    ]
    assert [a.state for a in await ledger.list(Selection(pipeline="scenes"))] == ["submitted"]


async def test_a_naive_time_is_refused_because_its_zone_would_be_a_guess(url: str, clock: Clock):
    ledger = Ledger(url, "here:1", lambda: clock().replace(tzinfo=None))
    with pytest.raises(Exception, match="aware times only"):
        await Desk(ledger).claimed(asked())
    ledger.close()


async def test_more_keys_than_one_query_takes_are_found(desk: Desk, ledger: Ledger):
    job = asked()
    await desk.claimed(job)
    keys = [f"{number:064x}" for number in range(1200)]
    assert list(await ledger.find([*keys, job.key])) == [job.key]


ODD = ["caf\udce9", "a\0b", "\ud800x", "\0", "\U0001f408", "\\x00", "\x7f\x1b[31m"]


@pytest.mark.parametrize("text", ODD)
async def test_a_text_that_no_database_takes_stops_nothing(text: str, desk: Desk, ledger: Ledger):
    job = asked(pipeline=text, item=text, step=text, settings={text: text})
    await ledger.open_run("run-1", text)
    attempt_id = await desk.claimed(job)
    seen = Evidence(how_far=text, reason=text)
    await ledger.ended(attempt_id, JobState.FAILED, GenerationFailed(text), evidence=seen)
    [known] = await ledger.list(Selection(pipeline=text))
    assert known.checked == job
    assert known.evidence == seen
    words = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    assert known.error_message == words
    limits = Limits(1000, max_cost_usd_per_day=0.4)
    await ledger.accepted(await desk.claimed(asked("two", pipeline=text)), "r-1")
    refused = await desk.claim(asked("three", pipeline=text), limits=limits)
    assert refused == BudgetExceeded("day", 0.4, 0.5)


@pytest.mark.parametrize("text", [text for text in ODD if text.isprintable() or "\0" in text])
async def test_a_prompt_that_no_database_takes_is_kept_as_it_is(text: str, desk: Desk):
    job = asked(text)
    await desk.claimed(job)
    assert (await desk.known(job)).checked.job.inputs == {"prompt": text}


async def test_the_list_is_chosen_by_run_key_request_and_time(
    desk: Desk, ledger: Ledger, clock: Clock
):
    one, two = asked("one"), asked("two")
    await desk.submitted(one, "run-1", "r-1")
    clock.forward(60)
    between = clock.time
    clock.forward(60)
    await desk.submitted(two, "run-2", "r-2")
    for selection, found in (
        (Selection(run_id="run-1"), ["r-1"]),
        (Selection(key_prefix=two.key[:9]), ["r-2"]),
        (Selection(key_prefix="%"), []),
        (Selection(key_prefix="_" * 5), []),
        (Selection(request_ids=("r-2", "r-9")), ["r-2"]),
        (Selection(request_ids=()), []),
        (Selection(since=between), ["r-2"]),
        (Selection(until=between), ["r-1"]),
        (Selection(since=between, until=between), []),
        (Selection(run_id="run-1", key_prefix=two.key), []),
        (Selection(), ["r-2", "r-1"]),
    ):
        assert [attempt.request_id for attempt in await ledger.list(selection)] == found


async def test_a_time_is_the_same_moment_whatever_zone_it_was_said_in(desk: Desk, clock: Clock):
    clock.time = clock.time.astimezone(timezone(timedelta(hours=9)))
    await desk.claimed(asked())
    known = await desk.known(asked())
    assert known.claimed_at == clock.time
    assert f"{known.claimed_at:%H:%M %Z}" == "12:00 UTC"
