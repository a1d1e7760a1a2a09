"""A claim and its POST: what is missed in between is claimed anew, and never in doubt."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.config.settings import StorageSettings
from comfyline.errors import Unreachable
from comfyline.job import CheckedJob, Job, JobState, Placement
from comfyline.keys import job_key
from comfyline.ledger.pace import LATE
from comfyline.progress import BudgetUsed, Event, observed_by
from comfyline.run import CostLimits, Run, Submission, UploadedInputs
from comfyline.runcomfy.verdict import Accepted, Verdict
from comfyline.services import Services, open_services
from tasks.submit import submit
from tests.conftest import EDIT, ROOT, Sandbox
from tests.operations.conftest import bucket, settings

__all__ = ["bucket"]
"""The fixture."""

INPUTS = {"prompt": "a beach"}
ASKED = CheckedJob(
    Job("scenes", "cat", "edit", EDIT, INPUTS, Placement("/out", "{{ index }}.png", {})),
    job_key(EDIT, INPUTS, (), None),
    (),
    0.1,
)


ANY_COST = CostLimits()


@pytest.fixture
async def services(
    sandbox: Sandbox, bucket: StorageSettings, tmp_path: Path
) -> AsyncIterator[Services]:
    models = ROOT / "configs/models"
    given = settings(tmp_path, bucket, sandbox.url, "sandbox-token", models)
    given = replace(given, runcomfy=replace(given.runcomfy, submits_per_second=5))
    async with open_services(given) as opened:
        yield opened


@pytest.fixture
def posts(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of what was sent."""
    sent: list[str] = []

    async def accept(model_id: str, _: object) -> Verdict:
        sent.append(model_id)
        return Accepted("request-1")

    monkeypatch.setattr(services.client, "submit", accept)
    return sent


def a_run(costs: CostLimits = ANY_COST) -> Run:
    return Run(id="run", pipeline="scenes", in_flight=4, timeout=60, costs=costs, refresh=False)


def miss_the_first_place(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk under the journal takes its time, once."""
    reserve, pauses = services.journal.reserve, [2 * LATE]

    def reserve_slowly(entry: Any) -> int:
        if pauses:
            time.sleep(pauses.pop())
        return reserve(entry)

    monkeypatch.setattr(services.journal, "reserve", reserve_slowly)


async def test_a_ledger_that_has_no_other_place_to_give_leaves_no_doubt(
    services: Services, posts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: float) -> float:
        raise Unreachable("The ledger cannot be used: it is restarting")

    miss_the_first_place(services, monkeypatch)
    monkeypatch.setattr(services.ledger, "take_place", away)
    with disable_run_logger():
        done = await submit.fn(ASKED, UploadedInputs(()), a_run(), services)
    assert isinstance(done, Submission)
    assert (done.attempt, posts) == (1, [EDIT])
    [known] = (await services.ledger.find([ASKED.key])).values()
    assert known.state is JobState.SUBMITTED
    # RunComfy itself was not away.
    assert services.client.retry_budget.seconds_for_a_try == float("inf")


async def test_a_run_that_is_told_to_stop_sends_nothing_at_a_later_place(
    services: Services, posts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, given = a_run(), asyncio.Event()

    async def much_later(_: float) -> float:
        given.set()
        return seconds_awake_or_asleep() + 5

    miss_the_first_place(services, monkeypatch)
    monkeypatch.setattr(services.ledger, "take_place", much_later)
    submitting = asyncio.create_task(submit.fn(ASKED, UploadedInputs(()), run, services))
    await given.wait()
    run.cancel_token.cancel("it was interrupted")
    async with asyncio.timeout(4):
        state = await submitting
    assert (await state.aresult(raise_on_failure=False)).kind == "interrupted"
    assert posts == []
    [known] = (await services.ledger.find([ASKED.key])).values()
    assert known.state is JobState.PLANNED


async def test_a_job_whose_price_nobody_knows_is_refused_and_no_limit_is_said_to_be_used(
    services: Services, posts: list[str]
) -> None:
    told: list[Event] = []
    with observed_by(told.append):
        unknown = replace(ASKED, estimate_usd=None)
        run = a_run(CostLimits(per_run=1))
        state = await submit.fn(unknown, UploadedInputs(()), run, services)
    assert (await state.aresult(raise_on_failure=False)).kind == "over-budget"
    assert not [event for event in told if isinstance(event, BudgetUsed)]
    assert posts == []
