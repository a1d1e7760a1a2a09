"""The flow that finishes what interrupted runs left behind, oldest paid first."""

import time

from prefect import flow
from prefect.client.schemas.objects import State

from comfyline.errors import ComfylineError
from comfyline.progress import RunPlanned, tell
from comfyline.report.summary import RunSummary
from comfyline.run import Run
from comfyline.services import Services, now
from flows.execution import walk_all
from flows.opening import run_id, with_services
from flows.report import report

_WAIT = 240.0
"""Seconds to wait for what still runs: the next sweep comes in minutes, and nothing is lost."""


@flow(name="reconcile", flow_run_name="reconcile", retries=0)
async def reconcile(profile: str = "sandbox") -> State[RunSummary] | State[ComfylineError]:
    """Polls, fetches and stores everything that was paid for and is not stored yet.

    Args:
        profile: Where it runs: the name of a file in configs/profiles/, or a path to one.
    """
    started, began = now(), time.monotonic()

    async def work(services: Services) -> State[RunSummary]:
        await services.ledger.end_dead_leases()
        left = await services.ledger.unfinished()
        run = Run(
            id=run_id(),
            pipeline="reconcile",
            in_flight=services.settings.runcomfy.in_flight,
            timeout=_WAIT,
            max_cost_usd=None,
            refresh=False,
            least_wait=_WAIT,
            collects_only=True,
        )
        tell(RunPlanned(run.id, run.pipeline, len(left), 0, 0.0))
        found = [(attempt.checked.job, attempt.checked) for attempt in left]
        outcomes = await walk_all(found, run, services)
        return await report(outcomes, run, services, started, began)

    return await with_services(profile, work)
