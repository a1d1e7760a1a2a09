"""What is there already and what has to be made, decided before any task is made.

Spends and writes nothing: the plan stops here, a run goes on from here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comfyline.checking import estimate_usd, judge, media_origins
from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, Job, JobState, StoredOutput
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.records import Attempt
from comfyline.models.entry import ModelEntry
from comfyline.run import Outcome, Run
from comfyline.services import Services, now
from comfyline.storage.origins import Facts, Trouble
from comfyline.targets import target_uris


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known before the first cost: what is there, and what has to be made.

    `to_make` holds a job's checked form, or None where its check fails; `validate` says why.
    `known` is what the ledger knows of them, by key.
    """

    there: tuple[Outcome, ...]
    to_make: tuple[tuple[Job, CheckedJob | None], ...]
    known: Mapping[str, Attempt]


async def survey(jobs: Sequence[Job], run: Run, services: Services) -> Survey:
    """Finds out which jobs are there already. Spends and writes nothing.

    Each step is done for all jobs at once, because ten thousand steps of their own take minutes.
    """
    checked = await _checked(jobs, services)
    known = await services.ledger.find(list({one.key: None for one in checked if one}))
    claims = await asyncio.to_thread(_claims, jobs, checked, known, run)
    sizes = await services.places.sizes([output.uri for claim in claims for output in claim])
    there: list[Outcome] = []
    to_make: list[tuple[Job, CheckedJob | None]] = []
    for job, one, claim in zip(jobs, checked, claims, strict=True):
        if one and claim and all(sizes[output.uri] == output.bytes for output in claim):
            there.append(_reused(job, one, claim, known[one.key]))
        else:
            to_make.append((job, one))
    return Survey(there=tuple(there), to_make=tuple(to_make), known=known)


async def estimate(surveyed: Survey, run: Run, services: Services) -> float | None:
    """What is still to be paid for, probably; None when a price is unknown.

    What was paid for before and has to be collected or stored again costs nothing. Raises
    `TokenRejected`: there is no use in going on.
    """
    total = 0.0
    for job, checked in surveyed.to_make:
        if checked is None:
            continue
        attempt = surveyed.known.get(checked.key)
        if decide(attempt, refresh=run.refresh, run_id=run.id, now=now()) is not Decision.SUBMIT:
            continue
        price = estimate_usd(checked, await services.catalogue.priced(job.model_id))
        if price is None:
            return None
        total += price
    return total


def reasons(surveyed: Survey, run: Run) -> list[str]:
    """Why each of the jobs to be made is not there, in a word or two."""
    return [
        _reason(job, surveyed.known.get(checked.key), run) if checked else "with mistakes"
        for job, checked in surveyed.to_make
    ]


def _reason(job: Job, attempt: Attempt | None, run: Run) -> str:
    if attempt is None:
        return "new"
    match decide(attempt, refresh=run.refresh, run_id=run.id, now=now()):
        case Decision.REUSE:
            return "output missing" if _claim(job, attempt) else "there under another name"
        case Decision.RESUME:
            return "paid for, to be collected"
        case Decision.WAIT:
            return "being submitted by another run"
        case Decision.BLOCKED:
            return attempt.state.replace("_", " ")
        case Decision.SUBMIT:
            return "refresh" if attempt.state is JobState.PERSISTED else "to be tried again"


async def _checked(jobs: Sequence[Job], services: Services) -> list[CheckedJob | None]:
    """Each job in its checked form, None for one with mistakes."""
    entries: dict[str, ModelEntry | None] = {}
    for model_id in dict.fromkeys(job.model_id for job in jobs):
        try:
            entries[model_id] = await services.catalogue.entry(model_id)
        except ComfylineError:
            entries[model_id] = None
    pairs = [(job, entries[job.model_id]) for job in jobs]
    wanted = (origin for job, entry in pairs if entry for origin in media_origins(job, entry))
    facts = await services.origins.look(wanted)
    return await asyncio.to_thread(lambda: [_judged(job, entry, facts) for job, entry in pairs])


def _judged(
    job: Job, entry: ModelEntry | None, facts: Mapping[str, Facts | Trouble]
) -> CheckedJob | None:
    try:
        return judge(job, entry, facts) if entry else None
    except ComfylineError:
        return None


def _claims(
    jobs: Sequence[Job],
    checked: Sequence[CheckedJob | None],
    known: Mapping[str, Attempt],
    run: Run,
) -> list[tuple[StoredOutput, ...]]:
    """For each job the outputs that the ledger says lie under the job's own names; or none."""
    at = now()
    claims: list[tuple[StoredOutput, ...]] = []
    for job, one in zip(jobs, checked, strict=True):
        attempt = known.get(one.key) if one else None
        reuse = attempt and (
            decide(attempt, refresh=run.refresh, run_id=run.id, now=at) is Decision.REUSE
        )
        claims.append(_claim(job, attempt) if attempt and reuse else ())
    return claims


def _claim(job: Job, attempt: Attempt) -> tuple[StoredOutput, ...]:
    """An attempt's outputs under this job's names; empty when any was stored only elsewhere."""
    ones = {output.index: output for output in attempt.outputs}
    outputs = [ones[index] for index in sorted(ones)]
    recorded = {(output.index, output.uri): output for output in attempt.outputs}
    try:
        uris = target_uris(job.placement, outputs)
    except ComfylineError:
        return ()
    mine = [recorded.get((one.index, uri)) for one, uri in zip(outputs, uris, strict=True)]
    stored = tuple(one for one in mine if one)
    return stored if len(stored) == len(outputs) else ()


def _reused(
    job: Job, checked: CheckedJob, outputs: tuple[StoredOutput, ...], attempt: Attempt
) -> Outcome:
    return Outcome(
        job=job,
        key=checked.key,
        state=JobState.PERSISTED,
        checked=checked,
        outputs=outputs,
        reused=True,
        cost_usd=attempt.cost_usd,
        request_id=attempt.request_id,
    )
