"""What a run does about a shard that has not ended, by what the ledger and Prefect say of it."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from comfyline.config.settings import StorageSettings
from comfyline.errors import ComfylineError, InputInvalid, Unreachable, UsageError
from comfyline.ledger.shards import ShardRow
from comfyline.pipeline.document import load_pipeline
from comfyline.plan.preview import Planned, Preview, graph_of
from comfyline.plan.shards import Shard, ShardResults
from comfyline.run import CostLimits, Run
from comfyline.services import Services, open_services
from flows.parameters import kept_out_of_prefect, must_be_whole
from flows.shards import Step, finish_shard, next_step, part_of_run, run_in_shards
from tests.operations.conftest import settings

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
        # It was cancelled on the page, and killed before it could say so.
        (LOST, StateType.CANCELLED, Step.CANCEL),
        (LOST, StateType.CANCELLING, Step.CANCEL),
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
    # What a form sends for a field that was emptied.
    with pytest.raises(UsageError, match="Invalid shard"):
        part_of_run("", "")


def test_what_workers_cannot_be_told_is_said_before_anything_is_paid_for():
    signed = [f"steps.edit.input.image_urls.{n}=https://h/{n}?X-Amz-Signature=abc" for n in "01"]
    with kept_out_of_prefect(overrides=signed, path="p.yaml") as stored:
        with pytest.raises(InputInvalid, match="--shards 1") as error:
            must_be_whole(stored)
        assert len(error.value.problems) == 2
        assert "abc" not in str(error.value)
        must_be_whole({"path": stored["path"], "limit": None})


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    none = StorageSettings("s3://none/uploads", "http://127.0.0.1:9", None, None, 60)
    async with open_services(settings(tmp_path, none)) as opened:
        yield opened


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\nsource: {items: []}\nsteps: {edit: {model: a/b, input: {}}}\n"
        "output: {to: out, name: x}\n"
    )
    pipeline = load_pipeline(path)
    graph = graph_of(pipeline, [], "run-1", date(2026, 11, 1))
    return Planned(pipeline, graph, Preview({}, ()), "0123abcd")


def a_run() -> Run:
    return Run(id="run-1", pipeline="p", in_flight=1, timeout=1, costs=CostLimits(), refresh=False)


async def test_a_worker_with_another_version_of_the_pipeline_makes_nothing_of_it(
    services: Services, planned: Planned
):
    shards = services.ledger.shards
    await shards.cut("run-1", 2, await services.ledger.open_run("run-1", "p"))

    async def plan(_: Shard) -> tuple[Planned, Run]:
        return planned, a_run()

    async def is_made(content: str | None) -> bool:
        state = await finish_shard(Shard(1, 2), "run-1", content, plan, services, time.monotonic())
        return state.is_completed()

    account = services.settings.runcomfy.account
    for other in (f"0123abcd at {account}, account other", f"4567 at {account}"):
        with pytest.raises(UsageError, match=r"not the same here.*--shards 1"):
            await is_made(other)
    # Its flow run has failed then, and the run makes the shard itself.
    [row, _] = await shards.of_run("run-1")
    assert next_step(replace(row, tries=1), StateType.FAILED, is_quiet=False) is Step.MAKE_HERE
    assert await is_made(f"0123abcd at {account}")
    assert [row.has_ended for row in await shards.of_run("run-1")] == [True, False]


@pytest.mark.parametrize(
    ("error", "step"),
    [(InputInvalid([]), Step.MAKE_HERE), (Unreachable("RunComfy is away"), Step.GIVE)],
)
async def test_who_cannot_plan_a_shard_leaves_it_to_the_run_or_to_the_next_worker(
    services: Services, error: ComfylineError, step: Step
):
    shards = services.ledger.shards
    await shards.cut("run-1", 1, await services.ledger.open_run("run-1", "p"))

    async def plan(_: Shard) -> tuple[Planned, Run]:
        raise error

    with pytest.raises(type(error)):
        await finish_shard(Shard(1, 1), "run-1", None, plan, services, time.monotonic())

    [row] = await shards.of_run("run-1")
    assert next_step(replace(row, tries=1), StateType.FAILED, is_quiet=False) is step


async def test_a_run_that_was_told_to_stop_is_cut_anew_when_it_is_retried(
    services: Services, planned: Planned
):
    await services.ledger.shards.cut("run-1", 2, await services.ledger.open_run("run-1", "p"))
    await services.ledger.stop_run("run-1")

    async def plan(_: Shard) -> tuple[Planned, Run]:
        raise AssertionError

    results = await run_in_shards(planned, a_run(), services, asked=1, parameters={}, plan=plan)

    assert results == ShardResults()
    assert await services.ledger.shards.of_run("run-1") == []
