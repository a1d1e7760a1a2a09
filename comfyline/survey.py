"""What is there already and what has to be made, decided before any task is made.

Spends and writes nothing: the plan stops here, a run goes on from here.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from comfyline.checking import estimate_usd, identify
from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, Job, JobState
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.records import Attempt
from comfyline.run import Outcome, Run
from comfyline.services import Services, now
from comfyline.targets import target_uris

T = TypeVar("T")

_LOOKING = 32
"""Files hashed or looked up at a time."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known before the first cost: what is there, and what has to be made.

    `to_make` holds a job's checked form, or None where its check fails; `validate` says why.
    """

    there: tuple[Outcome, ...]
    to_make: tuple[tuple[Job, CheckedJob | None], ...]


async def survey(jobs: Sequence[Job], run: Run, services: Services) -> Survey:
    """Finds out which jobs are there already. Spends and writes nothing."""
    checked = await _bounded(_identified(job, services) for job in jobs)
    known = await services.ledger.find([one.key for one in checked if one])
    found = await _bounded(
        _reused(job, one, known.get(one.key) if one else None, run, services)
        for job, one in zip(jobs, checked, strict=True)
    )
    pairs = list(zip(jobs, checked, found, strict=True))
    return Survey(
        there=tuple(outcome for _, _, outcome in pairs if outcome),
        to_make=tuple((job, one) for job, one, outcome in pairs if outcome is None),
    )


async def estimate(
    to_make: Iterable[tuple[Job, CheckedJob | None]], services: Services
) -> float | None:
    """What the jobs to be made will probably cost; None when a price is unknown."""
    total = 0.0
    for job, checked in to_make:
        if checked is None:
            continue
        price = estimate_usd(checked, await services.catalogue.priced(job.model_id))
        if price is None:
            return None
        total += price
    return total


async def reasons(
    to_make: Sequence[tuple[Job, CheckedJob | None]], run: Run, services: Services
) -> list[str]:
    """Why each of these jobs is not there, in a word or two."""
    known = await services.ledger.find([checked.key for _, checked in to_make if checked])
    return [
        _reason(known.get(checked.key), run) if checked else "with mistakes"
        for _, checked in to_make
    ]


def _reason(attempt: Attempt | None, run: Run) -> str:
    if attempt is None:
        return "new"
    match decide(attempt, refresh=run.refresh, run_id=run.id, now=now()):
        case Decision.REUSE:
            return "output missing"
        case Decision.RESUME:
            return "paid for, to be collected"
        case Decision.WAIT:
            return "being submitted by another run"
        case Decision.BLOCKED:
            return attempt.state.replace("_", " ")
        case Decision.SUBMIT:
            return "refresh" if attempt.state is JobState.PERSISTED else "to be tried again"


async def _identified(job: Job, services: Services) -> CheckedJob | None:
    try:
        entry = await services.catalogue.entry(job.model_id)
        return await identify(job, entry, services.origins)
    except ComfylineError:
        return None


async def _reused(
    job: Job, checked: CheckedJob | None, attempt: Attempt | None, run: Run, services: Services
) -> Outcome | None:
    """The outcome of a job whose outputs all lie under its own names already."""
    if checked is None or attempt is None:
        return None
    if decide(attempt, refresh=run.refresh, run_id=run.id, now=now()) is not Decision.REUSE:
        return None
    ones = {output.index: output for output in attempt.outputs}
    outputs = [ones[index] for index in sorted(ones)]
    recorded = {(output.index, output.uri): output for output in attempt.outputs}
    mine = []
    for output, uri in zip(outputs, target_uris(job.placement, outputs), strict=True):
        stored = recorded.get((output.index, uri))
        if stored is None or await services.places.of(uri).size(uri) != stored.bytes:
            return None
        mine.append(stored)
    return Outcome(
        job=job,
        key=checked.key,
        state=JobState.PERSISTED,
        checked=checked,
        outputs=tuple(mine),
        reused=True,
        cost_usd=attempt.cost_usd,
        request_id=attempt.request_id,
    )


async def _bounded(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order, `_LOOKING` at a time."""
    gate = asyncio.Semaphore(_LOOKING)

    async def one(coroutine: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await coroutine

    return list(await asyncio.gather(*map(one, work)))
