"""What is there already and what has to be made, decided before any task is made.

Spends and writes nothing: the plan stops here, a run goes on from here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comfyline.checking import estimate_usd
from comfyline.errors import ComfylineError, Problem
from comfyline.job import CheckedJob, Job, JobState, StoredOutput
from comfyline.judging import judge_all
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.records import Attempt
from comfyline.progress import Note, tell
from comfyline.run import Outcome, Run
from comfyline.services import Services, now
from comfyline.targets import target_uris

_READ_AT_ONCE = 8
"""Files whose bytes are compared at a time."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known before the first cost: what is there, and what has to be made.

    `to_make` holds a job's checked form, or None where its check fails; `validate` says why.
    `known` is what the ledger knows of them, by key. `mistakes` are those of all jobs, the same one
    said once; `notes` are sentences about what is no mistake and worth knowing.
    """

    there: tuple[Outcome, ...]
    to_make: tuple[tuple[Job, CheckedJob | None], ...]
    known: Mapping[str, Attempt]
    mistakes: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


async def survey(jobs: Sequence[Job], run: Run, services: Services) -> Survey:
    """Finds out which jobs are there already. Spends and writes nothing.

    Each step is done for all jobs at once, because ten thousand steps of their own take minutes.
    """
    verdicts = await judge_all(jobs, services)
    for note in verdicts.notes:
        tell(Note(note))
    checked = verdicts.checked
    known = await services.ledger.find(list({one.key: None for one in checked if one}))
    claims = await asyncio.to_thread(_claims, jobs, checked, known, run)
    lying = await _lying([output for claim in claims for output in claim], run, services)
    there: list[Outcome] = []
    to_make: list[tuple[Job, CheckedJob | None]] = []
    for job, one, claim in zip(jobs, checked, claims, strict=True):
        if one and claim and lying.issuperset(claim):
            there.append(_reused(job, one, claim, known[one.key]))
        else:
            to_make.append((job, one))
    return Survey(
        there=tuple(there),
        to_make=tuple(to_make),
        known=known,
        mistakes=verdicts.mistakes,
        notes=verdicts.notes,
    )


async def there_now(
    job: Job, checked: CheckedJob, attempt: Attempt, run: Run, services: Services
) -> Outcome | None:
    """The same for one job whose attempt another process has just stored; None when it is not."""
    claim = _claim(job, attempt)
    if not claim or not (await _lying(claim, run, services)).issuperset(claim):
        return None
    return _reused(job, checked, claim, attempt)


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


async def _lying(
    outputs: Sequence[StoredOutput], run: Run, services: Services
) -> set[StoredOutput]:
    """Which outputs are really there: by their size, and with `verify` by every byte."""
    sizes = await services.places.sizes([output.uri for output in outputs])
    found = {output for output in outputs if sizes[output.uri] == output.bytes}
    if not run.verify:
        return found
    gate = asyncio.Semaphore(_READ_AT_ONCE)

    async def is_whole(output: StoredOutput) -> bool:
        async with gate:
            return await services.places.of(output.uri).sha256(output.uri) == output.sha256

    ordered = list(found)
    whole = await asyncio.gather(*map(is_whole, ordered))
    return {output for output, right in zip(ordered, whole, strict=True) if right}


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
