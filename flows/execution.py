"""All jobs of a run: what is there is reused before a task is made, the rest walks on its own.

No stage waits for all of another. A window of walks is open at a time, so that memory follows the
number of jobs in flight and not of jobs in all.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence

from comfyline.job import CheckedJob, Job
from comfyline.progress import JobEnded, RunPlanned, tell
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.survey import estimate, survey
from flows.walk import walk

_BESIDE_FLIGHT = 8
"""Walks open beyond those at RunComfy: enough to upload ahead and fetch behind."""


async def execute(jobs: Sequence[Job], run: Run, services: Services) -> list[Outcome]:
    """Brings every job to an end and returns what became of each, in the order of the plan."""
    await services.ledger.end_dead_leases()
    surveyed = await survey(jobs, run, services)
    tell(
        RunPlanned(
            run_id=run.id,
            pipeline=run.pipeline,
            jobs=len(jobs),
            reused=len(surveyed.there),
            estimate_usd=await estimate(surveyed, run, services),
        )
    )
    made = await walk_all(surveyed.to_make, run, services)
    of_job = {id(outcome.job): outcome for outcome in (*surveyed.there, *made)}
    return [of_job[id(job)] for job in jobs]


async def walk_all(
    to_make: Sequence[tuple[Job, CheckedJob | None]], run: Run, services: Services
) -> list[Outcome]:
    """Brings these jobs to an end, begun in their order, and returns what became of them."""
    outcomes: list[Outcome] = []
    groups = _by_key(to_make)

    async def work() -> None:
        for group in groups:
            for job, checked in group:
                outcome = await walk(job, checked, run, services)
                outcomes.append(outcome)
                message = str(outcome.error) if outcome.error else ""
                tell(JobEnded(job.label, job.label, outcome.state, outcome.cost_usd, message))

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(len(to_make), run.in_flight + _BESIDE_FLIGHT)):
            workers.create_task(work())
    return outcomes


def _by_key(
    to_make: Sequence[tuple[Job, CheckedJob | None]],
) -> Iterator[list[tuple[Job, CheckedJob | None]]]:
    """Jobs with one key one after the other: the second takes what the first has paid for."""
    groups: dict[str | int, list[tuple[Job, CheckedJob | None]]] = defaultdict(list)
    for job, checked in to_make:
        groups[checked.key if checked else id(job)].append((job, checked))
    return iter(groups.values())
