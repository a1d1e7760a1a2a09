"""What a run does about a shard that has not ended, by what the ledger and Prefect say of it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prefect.client.schemas.objects import StateType

from comfyline.errors import InputInvalid, UsageError
from comfyline.ledger.shards import ShardRow
from flows.parameters import kept_out_of_prefect, must_be_whole
from flows.shards import Step, next_step, part_of_run

NEW = ShardRow(
    number=1,
    of=3,
    began=datetime.now(UTC),
    tries=0,
    flow_run_id=None,
    holder=None,
    is_lost=False,
    has_ended=False,
    progress={},
)
GIVEN = replace(NEW, tries=1, flow_run_id="flow-1")
HELD = replace(GIVEN, holder="there:1")
LOST = replace(HELD, is_lost=True)


@pytest.mark.parametrize(
    ("row", "state", "step"),
    [
        (NEW, None, Step.GIVE),
        (GIVEN, None, Step.WAIT),
        (GIVEN, StateType.SCHEDULED, Step.WAIT),
        (GIVEN, StateType.PENDING, Step.WAIT),
        (GIVEN, StateType.RUNNING, Step.WAIT),
        (GIVEN, StateType.CRASHED, Step.GIVE),
        (GIVEN, StateType.COMPLETED, Step.GIVE),
        (GIVEN, StateType.FAILED, Step.MAKE_HERE),
        (GIVEN, StateType.CANCELLED, Step.CANCEL),
        (GIVEN, StateType.CANCELLING, Step.CANCEL),
        (HELD, StateType.RUNNING, Step.WAIT),
        # What Prefect says of a shard that somebody works on does not matter.
        (HELD, StateType.CRASHED, Step.WAIT),
        (HELD, StateType.CANCELLED, Step.WAIT),
        (LOST, None, Step.GIVE),
        (LOST, StateType.RUNNING, Step.GIVE),
        # Three workers have had it.
        (replace(LOST, tries=3), None, Step.MAKE_HERE),
        (replace(GIVEN, tries=3), StateType.CRASHED, Step.MAKE_HERE),
        (replace(GIVEN, tries=3), StateType.SCHEDULED, Step.WAIT),
    ],
)
def test_what_a_run_does_about_a_shard(row: ShardRow, state: StateType | None, step: Step):
    assert next_step(row, state, is_quiet=False) is step


def test_a_run_for_which_no_worker_comes_makes_its_shards_itself():
    assert next_step(GIVEN, StateType.SCHEDULED, is_quiet=True) is Step.MAKE_HERE
    assert next_step(GIVEN, None, is_quiet=True) is Step.MAKE_HERE
    # Prefect does not even take it.
    assert next_step(NEW, None, is_quiet=True) is Step.MAKE_HERE
    assert next_step(LOST, None, is_quiet=True) is Step.MAKE_HERE
    assert next_step(HELD, StateType.RUNNING, is_quiet=True) is Step.WAIT
    assert next_step(GIVEN, StateType.CANCELLED, is_quiet=True) is Step.CANCEL


def test_a_part_names_its_run_and_a_run_no_part():
    part = part_of_run("3/8", "run-1")
    assert part
    assert str(part) == "3/8"
    assert part_of_run(None, None) is None
    for shard, of_run in (("3/8", None), (None, "run-1")):
        with pytest.raises(UsageError, match="go together"):
            part_of_run(shard, of_run)


def test_what_workers_cannot_be_told_is_said_before_anything_is_paid_for():
    signed = [f"steps.edit.input.image_urls.{n}=https://h/{n}?X-Amz-Signature=abc" for n in "01"]
    with kept_out_of_prefect(overrides=signed, path="p.yaml") as stored:
        with pytest.raises(InputInvalid, match="--shards 1") as error:
            must_be_whole(stored)
        assert len(error.value.problems) == 2
        assert "abc" not in str(error.value)
        must_be_whole({"path": stored["path"], "limit": None})
