"""Every step of an attempt: what the ledger takes, what it refuses, what it tells afterwards."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta, timezone
from itertools import product

import pytest

from comfyline.errors import Cancelled, GenerationFailed, Rejected
from comfyline.job import ALLOWED, JobState
from comfyline.ledger.attempts import AttemptSummary
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Clock, Desk, asked, output

JOB = asked()
PATHS: dict[JobState, Sequence[JobState]] = {JobState.PLANNED: ()}
while len(PATHS) < len(JobState):
    for here, path in list(PATHS.items()):
        for after in ALLOWED[here]:
            PATHS.setdefault(after, (*path, after))


async def test_exactly_the_allowed_steps_are_taken(desk: Desk):
    for start, to in product(JobState, JobState):
        job = asked(f"{start} to {to}")
        attempt_id = await desk.claimed(job)
        await desk.not_sent(attempt_id)
        for state in PATHS[start]:
            await desk.brought(attempt_id, state)
        if to is start or to in ALLOWED[start]:
            await desk.brought(attempt_id, to)
            assert await desk.state(job) is to
        else:
            with pytest.raises(StateConflict, match="cannot go"):
                await desk.brought(attempt_id, to)
            assert await desk.state(job) is start


async def test_each_step_leaves_its_time_whatever_zone_it_was_told_in(
    desk: Desk, ledger: Ledger, clock: Clock
):
    clock.time = clock.time.astimezone(timezone(timedelta(hours=9)))
    attempt_id = await desk.submitted(JOB)
    clock.forward(10)
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    reached = (await desk.known(JOB)).reached
    assert list(reached) == ["planned", "submitting", "submitted", "in_progress"]
    assert f"{reached[JobState.SUBMITTED]:%H:%M:%S %Z}" == "12:00:00 UTC"
    assert reached[JobState.IN_PROGRESS] == clock.time


async def test_a_naive_time_is_refused_because_its_zone_would_be_a_guess(clock: Clock):
    ledger = Ledger("sqlite://", "here:1", lambda: clock().replace(tzinfo=None))
    with pytest.raises(Exception, match="aware times only"):
        await Desk(ledger).claimed(JOB)
    ledger.close()


async def test_a_request_id_is_written_once_and_there_when_the_ledger_is_opened_anew(
    desk: Desk, ledger: Ledger, there: Desk, clock: Clock
):
    attempt_id = await desk.submitted(JOB, request_id="r-1")
    first = clock.time
    await ledger.completed(attempt_id, 0.4)
    clock.forward(5)
    assert await ledger.accepted(attempt_id, "r-1") == first
    with pytest.raises(StateConflict) as refused:
        await ledger.accepted(attempt_id, "r-2")
    assert refused.value.request_id == "r-2"
    known = await there.known(JOB)
    assert (known.request_id, known.state, known.checked) == ("r-1", JobState.COMPLETED, JOB)


async def test_an_older_answer_moves_nothing_back_and_forgets_no_cost(
    desk: Desk, ledger: Ledger, clock: Clock
):
    attempt_id = await desk.submitted(JOB)
    await ledger.completed(attempt_id, 0.25)
    await ledger.completed(attempt_id, None)
    await ledger.persisted(attempt_id, [output()])
    before = await desk.known(JOB)
    assert before.cost_usd == 0.25
    clock.forward(5)
    await ledger.observed(attempt_id, JobState.IN_PROGRESS)
    await ledger.completed(attempt_id, None)
    assert await desk.known(JOB) == before


async def test_what_two_processes_see_end_ends_once(desk: Desk, ledger: Ledger):
    attempt_id = await desk.submitted(JOB)
    for cost in (0.1, None):
        error = Cancelled("It was cancelled")
        await ledger.ended(attempt_id, JobState.CANCELLED, error, cost_usd=cost)
    with pytest.raises(StateConflict):
        await ledger.completed(attempt_id, 0.5)
    known = await desk.known(JOB)
    assert (known.state, known.error_message, known.cost_usd) == (
        JobState.CANCELLED,
        "It was cancelled",
        0.1,
    )


async def test_unfinished_is_what_was_paid_for_and_is_not_stored_oldest_first(
    desk: Desk, ledger: Ledger, clock: Clock
):
    for prompt in ("first", "second"):
        clock.forward(1)
        attempt_id = await desk.submitted(asked(prompt), request_id=prompt)
    await ledger.completed(attempt_id, 0.4)
    await desk.claimed(asked("still submitting"))
    await desk.failed(asked("failed"))
    await desk.stored(asked("all there"))
    assert [one.request_id for one in await ledger.unfinished()] == ["first", "second"]


async def test_the_list_is_newest_first_and_chosen_by_what_was_selected(
    desk: Desk, ledger: Ledger, clock: Clock
):
    one, two = asked("one"), asked("two", pipeline="other")
    await desk.submitted(one, "run-1", "r-1")
    clock.forward(60)
    between = clock.time
    clock.forward(60)
    await ledger.completed(await desk.submitted(two, "run-2", "r-2"), 0.4)
    for selection, found in (
        (Selection(state=JobState.SUBMITTED), ["r-1"]),
        (Selection(pipeline="other"), ["r-2"]),
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


async def test_more_keys_than_one_query_takes_are_found(desk: Desk, ledger: Ledger):
    await desk.claimed(JOB)
    keys = [f"{number:064x}" for number in range(1200)]
    assert list(await ledger.find([*keys, JOB.key])) == [JOB.key]


async def test_a_summary_says_the_same_as_the_whole_attempt(desk: Desk, ledger: Ledger):
    jobs = [asked(name) for name in ("stored", "running", "rejected", "failed", "planned")]
    stored, running, rejected, failed, planned = jobs
    await desk.stored(stored, output("file:///out/0.png"), output("file:///out/1.png", 1))
    await desk.submitted(running)
    for error, job in ((Rejected("blank"), rejected), (GenerationFailed("no"), failed)):
        await ledger.ended(await desk.submitted(job), JobState.FAILED, error, cost_usd=0.2)
    await desk.not_sent(await desk.claimed(planned))
    keys = [one.key for one in (*jobs, asked("unknown"))]

    summaries, attempts = await ledger.summaries(keys), await ledger.find(keys)

    names = {field.name for field in fields(AttemptSummary)} - {"packed"} | {"placement"}
    assert summaries.keys() == attempts.keys() == set(keys[:-1])
    for key, summary in summaries.items():
        told = {name: getattr(summary, name) for name in names}
        assert told == {name: getattr(attempts[key], name) for name in names}


async def test_what_was_last_submitted_in_a_place_is_found(desk: Desk, ledger: Ledger):
    """Without the secrets of addresses."""
    here = {"settings": {"ratio": "1:1"}, "part": 1}
    secret = "https://files.test/cat.png?X-Amz-Signature=abc"
    await desk.stored(asked("first", **here), output("file:///out/0.png"))
    await desk.submitted(asked(secret, **here))
    await desk.not_sent(await desk.claimed(asked("never sent", **here)))
    now = asked(f"{secret}d", **here)
    elsewhere = [
        replace(now, job=replace(now.job, **other))
        for other in (
            {"pipeline": "others"},
            {"item": "dog"},
            {"step": "paint"},
            {"settings": {"ratio": "16:9"}},
            {"part": 2},
        )
    ]

    pair, *others = await ledger.previous_attempts([now, *elsewhere])

    assert pair is not None
    assert pair[0].job == pair[1].job
    assert "Signature" not in repr(pair)
    assert others == [None] * 5
