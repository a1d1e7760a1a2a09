"""Where outputs lie: recorded once, and by the last job that was stored there only."""

from dataclasses import replace

from comfyline.job import JobState
from comfyline.ledger.claims import Claimed, NotOurs
from comfyline.ledger.decision import Decision
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Desk, asked, output

HERE, THERE = "file:///out/cat-0.png", "file:///out/cat-1.png"


async def test_storing_the_same_again_records_nothing_twice(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.stored(job, output(HERE), output(THERE, 1))
    await ledger.persisted(attempt_id, [output(HERE), output(THERE, 1)])
    assert (await desk.known(job)).outputs == (output(HERE), output(THERE, 1))


async def test_a_second_place_of_the_same_job_is_remembered_beside_the_first(
    desk: Desk, ledger: Ledger
):
    job = asked()
    attempt_id = await desk.stored(job, output(HERE))
    await ledger.persisted(attempt_id, [output("s3://bucket/cat.png")])
    assert [o.uri for o in (await desk.known(job)).outputs] == [HERE, "s3://bucket/cat.png"]


async def test_what_is_stored_anew_is_recorded_as_it_is_now(desk: Desk, ledger: Ledger):
    job = asked()
    attempt_id = await desk.stored(job, output(HERE))
    changed = replace(output(HERE), sha256="f" * 64, bytes=456)
    await ledger.persisted(attempt_id, [changed])
    assert (await desk.known(job)).outputs == (changed,)


async def test_a_place_that_another_job_took_over_is_no_longer_the_first_ones(desk: Desk):
    old, new = asked("an old prompt"), asked("a new prompt")
    await desk.stored(old, output(HERE))
    await desk.stored(new, output(HERE), run="run-2")
    assert (await desk.known(new)).outputs == (output(HERE),)
    known = await desk.known(old)
    assert (known.outputs, known.state) == ((), JobState.PERSISTED)


async def test_a_job_whose_file_was_taken_over_is_stored_again_and_not_paid_again(
    desk: Desk, ledger: Ledger
):
    old, new = asked("an old prompt"), asked("a new prompt")
    attempt_id = await desk.stored(old, output(HERE))
    await desk.stored(new, output(HERE), run="run-2")
    claim = await desk.claim(old, "run-3")
    assert isinstance(claim, NotOurs)
    assert claim.decision is Decision.RESUME
    await ledger.completed(attempt_id, 0.4)
    await ledger.persisted(attempt_id, [output(HERE)])
    again = await desk.claim(old, "run-3")
    assert isinstance(again, NotOurs)
    assert again.decision is Decision.REUSE
    assert (await desk.known(new)).outputs == ()


async def test_a_job_whose_file_was_taken_over_is_made_anew_only_by_refresh(desk: Desk):
    old = asked("an old prompt")
    await desk.stored(old, output(HERE))
    await desk.stored(asked("a new prompt"), output(HERE), run="run-2")
    assert isinstance(await desk.claim(old, "run-3", refresh=True), Claimed)


async def test_a_job_that_lost_one_of_its_outputs_does_not_pass_for_whole(desk: Desk):
    old = asked("an old prompt")
    await desk.stored(old, output(HERE), output(THERE, 1))
    await desk.stored(asked("a new prompt"), output(THERE), run="run-2")
    assert (await desk.known(old)).outputs == ()


async def test_a_job_with_a_second_copy_of_what_was_taken_over_keeps_all_the_rest(
    desk: Desk, ledger: Ledger
):
    old = asked("an old prompt")
    attempt_id = await desk.stored(old, output(HERE), output(THERE, 1))
    copies = [output("s3://b/0.png"), output("s3://b/1.png", 1)]
    await ledger.persisted(attempt_id, copies)
    await desk.stored(asked("a new prompt"), output(THERE), run="run-2")
    assert (await desk.known(old)).outputs == (output(HERE), *copies)


async def test_a_refreshed_job_takes_its_own_place_over(desk: Desk, ledger: Ledger):
    job = asked()
    first = await desk.stored(job, output(HERE))
    second = await desk.claimed(job, "run-2", refresh=True)
    await ledger.accepted(second, "r-2")
    await ledger.completed(second, 0.4)
    await ledger.persisted(second, [output(HERE)])
    newest, oldest = await ledger.list()
    assert (newest.id, newest.outputs) == (second, (output(HERE),))
    assert (oldest.id, oldest.outputs) == (first, ())


async def test_a_place_belongs_to_whoever_stored_there_last_and_else_to_nobody(
    desk: Desk, ledger: Ledger
):
    old, new = asked("an old prompt"), asked("a new prompt")
    await desk.stored(old, output(HERE), output(THERE, 1))
    await desk.stored(new, output(HERE), run="run-2")

    owners = await ledger.stored_at([HERE, THERE, "file:///out/dog.png"])

    assert {uri: one.checked.key for uri, one in owners.items()} == {HERE: new.key}


async def test_what_is_stored_is_told_with_its_last_request_cost_and_time(
    desk: Desk, ledger: Ledger
):
    jobs = [asked(f"prompt {number}") for number in range(3)]
    for job in jobs[:2]:
        await desk.stored(job, output(f"file:///{job.key}.png"))

    told = await ledger.provenance([job.key for job in jobs])

    assert list(told) == [job.key for job in jobs[:2]]
    known = await desk.known(jobs[1])
    assert told[jobs[1].key].request_id == known.request_id
    assert told[jobs[1].key].cost_usd == known.cost_usd
    assert told[jobs[1].key].stored_at == known.reached[JobState.PERSISTED]
