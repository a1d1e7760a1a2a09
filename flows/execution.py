"""All jobs of a run: what is there is reused before a task is made, the rest walks on its own.

No stage waits for all of another. A window of walks is open at a time, so that memory follows the
number of jobs in flight and not of jobs in all. A job that another process works on is put off:
the others come first, and then its result is waited for, or the job taken over.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, Job, JobState
from comfyline.ledger.refusals import not_started
from comfyline.leftovers import sweep
from comfyline.progress import JobEnded, Note, RunPlanned, tell
from comfyline.report.words import count
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.survey import estimate, survey
from comfyline.withdrawal import withdraw_all
from flows.walk import walk

Group = list[tuple[Job, CheckedJob | None]]
"""Jobs with one key, one after the other: the second takes what the first has paid for."""

_BESIDE_FLIGHT = 8
"""Walks open beyond those at RunComfy: enough to upload ahead and fetch behind."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks at what other processes work on."""


async def execute(jobs: Sequence[Job], run: Run, services: Services) -> list[Outcome]:
    """Brings every job to an end and returns what became of each, in the order of the plan."""
    await services.ledger.open_run(run.id, run.pipeline)
    await sweep((job.placement.folder for job in jobs), services)
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
    # All that is wrong is told before anything is uploaded.
    wrong = [(job, checked) for job, checked in surveyed.to_make if checked is None]
    right = [(job, checked) for job, checked in surveyed.to_make if checked is not None]
    outcomes = [*surveyed.there]
    for some in (wrong, right):
        outcomes += await walk_all(some, run, services)
    of_job = {id(outcome.job): outcome for outcome in outcomes}
    return [of_job[id(job)] for job in jobs]


async def walk_all(
    to_make: Sequence[tuple[Job, CheckedJob | None]],
    run: Run,
    services: Services,
    *,
    waits_for_others: bool = True,
) -> list[Outcome]:
    """Brings these jobs to an end, begun in their order, and returns what became of them.

    Without `waits_for_others`, what other processes work on is left to them and has no outcome.
    """
    outcomes: list[Outcome] = []
    ready, elsewhere = deque(_by_key(to_make)), deque[Group]()
    left: ComfylineError | None = None
    try:
        while ready:
            outcomes += await _walk_ready(ready, elsewhere, run, services)
            if elsewhere and waits_for_others and not run.stop.is_pulled:
                tell(Note(f"waiting for {count(len(elsewhere), 'job')} of another process"))
                ready.extend(await _freed(elsewhere, run, services))
    except ComfylineError as error:
        left = error
    except asyncio.CancelledError:
        # Prefect cancels a worker's flow so: what is queued is taken back before the process ends.
        with suppress(ComfylineError):
            await withdraw_all(run, services)
        raise
    if elsewhere and not waits_for_others:
        tell(Note(f"{count(len(elsewhere), 'job')} left to the process that works on it"))
        return outcomes
    left = left or not_started(run.stop.reason)
    return outcomes + [_stuck(job, checked, left) for group in elsewhere for job, checked in group]


async def _walk_ready(
    ready: deque[Group], elsewhere: deque[Group], run: Run, services: Services
) -> list[Outcome]:
    """Walks what is ready, in a window; what others hold is moved to `elsewhere`."""
    outcomes: list[Outcome] = []

    async def work() -> None:
        while ready:
            group = ready.popleft()
            _, first = group[0]
            try:
                if first and not await services.ledger.take(first.key, first.job.model_id):
                    elsewhere.append(group)
                    continue
            except ComfylineError as error:
                outcomes.extend(_stuck(job, checked, error) for job, checked in group)
                continue
            for job, checked in group:
                outcomes.append(await walk(job, checked, run, services))
                _tell_end(outcomes[-1])
            if first:
                # What cannot be given up lapses by itself.
                with suppress(ComfylineError):
                    await services.ledger.release(first.key)

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(len(ready), run.in_flight + _BESIDE_FLIGHT)):
            workers.create_task(work())
    return outcomes


async def _freed(elsewhere: deque[Group], run: Run, services: Services) -> list[Group]:
    """Waits until other processes let go of some jobs, and takes those out of `elsewhere`.

    Returns nothing when the run is told to stop before.
    """
    while not run.stop.is_pulled:
        keys = sorted({checked.key for group in elsewhere for _, checked in group if checked})
        free = await services.ledger.free(keys)
        if freed := [group for group in elsewhere if group[0][1] and group[0][1].key in free]:
            for group in freed:
                elsewhere.remove(group)
            return freed
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN):
                await run.stop.pulled()
    return []


def _stuck(job: Job, checked: CheckedJob | None, error: ComfylineError) -> Outcome:
    """A job that was not even begun."""
    outcome = Outcome(job, checked.key if checked else "", JobState.PLANNED, error=error)
    _tell_end(outcome)
    return outcome


def _tell_end(outcome: Outcome) -> None:
    message = str(outcome.error) if outcome.error else ""
    label = outcome.job.label
    tell(JobEnded(label, label, outcome.state, outcome.cost_usd, message, outcome.cost_unknown))


def _by_key(to_make: Iterable[tuple[Job, CheckedJob | None]]) -> list[Group]:
    groups: dict[str | int, Group] = defaultdict(list)
    for job, checked in to_make:
        groups[checked.key if checked else id(job)].append((job, checked))
    return list(groups.values())
