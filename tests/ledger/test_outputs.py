"""Where outputs lie: recorded once, and by the last job that was stored there only."""

from dataclasses import replace

import pytest

from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Desk, asked, output

HERE, THERE = "file:///out/cat-0.png", "file:///out/cat-1.png"
OLD, NEW = asked("an old prompt"), asked("a new prompt")


async def test_a_place_is_recorded_once_and_as_it_is_now(desk: Desk, ledger: Ledger):
    attempt_id = await desk.stored(OLD, output(HERE), output(THERE, 1))
    await ledger.persisted(attempt_id, [output(HERE), output(THERE, 1)])
    assert (await desk.known(OLD)).outputs == (output(HERE), output(THERE, 1))
    changed = replace(output(THERE, 1), sha256="f" * 64, bytes=456)
    # A second place is remembered beside the first.
    copy = output("s3://bucket/cat.png")
    await ledger.persisted(attempt_id, [changed, copy])
    assert (await desk.known(OLD)).outputs == (output(HERE), changed, copy)


async def test_a_job_whose_file_was_taken_over_is_stored_again_and_not_paid_again(
    desk: Desk, ledger: Ledger
):
    attempt_id = await desk.stored(OLD, output(HERE))
    await desk.stored(NEW, output(HERE), run="run-2")
    known = await desk.known(OLD)
    assert (known.outputs, known.state) == ((), JobState.PERSISTED)
    assert await desk.asks(OLD, "run-3") == "RESUME"
    await ledger.completed(attempt_id, 0.4)
    await ledger.persisted(attempt_id, [output(HERE)])
    assert await desk.asks(OLD, "run-3") == "REUSE"
    assert (await desk.known(NEW)).outputs == ()
    assert await desk.asks(NEW, "run-3", refresh=True) == "CLAIMED"


async def test_a_job_that_lost_one_of_its_outputs_is_whole_only_by_a_copy_of_it(
    desk: Desk, ledger: Ledger
):
    attempt_id = await desk.stored(OLD, output(HERE), output(THERE, 1))
    copies = [output("s3://b/0.png"), output("s3://b/1.png", 1)]
    await ledger.persisted(attempt_id, copies)
    await desk.stored(NEW, output(THERE), run="run-2")
    assert (await desk.known(OLD)).outputs == (output(HERE), *copies)
    await desk.stored(asked("another"), output("s3://b/1.png"), run="run-3")
    assert (await desk.known(OLD)).outputs == ()
    owners = await ledger.stored_at([HERE, THERE, "file:///out/dog.png"])
    assert {uri: one.checked.key for uri, one in owners.items()} == {THERE: NEW.key}


async def test_a_refreshed_job_takes_its_own_place_over(desk: Desk, ledger: Ledger):
    first = await desk.stored(OLD, output(HERE))
    second = await desk.submitted(OLD, "run-2", "r-2", refresh=True)
    await ledger.completed(second, 0.4)
    await ledger.persisted(second, [output(HERE)])
    newest, oldest = await ledger.list()
    assert (newest.id, newest.outputs) == (second, (output(HERE),))
    assert (oldest.id, oldest.outputs) == (first, ())
    told = await ledger.provenance([OLD.key, NEW.key])
    assert list(told) == [OLD.key]
    assert (told[OLD.key].request_id, told[OLD.key].cost_usd) == ("r-2", 0.4)
    assert told[OLD.key].stored_at == newest.reached[JobState.PERSISTED]


async def test_what_another_has_moved_meanwhile_is_looked_for_by_running_again(
    desk: Desk, ledger: Ledger
):
    attempt_id = await desk.stored(OLD, output(HERE))
    await ledger.moved(attempt_id, HERE, THERE)
    with pytest.raises(StateConflict, match=r"moved aside by another run\. Run again"):
        await ledger.moved(attempt_id, HERE, THERE)
