"""Find what is there already of some jobs, before any task is made; spend nothing."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from comfyline.errors import ComfylineError, Problem, Unreachable
from comfyline.job import CheckedJob, Job, JobState, StoredOutput
from comfyline.ledger.attempts import AnyAttempt
from comfyline.ledger.decision import Decision, decide
from comfyline.operations.adopt import foreseen_in_words, recognise
from comfyline.pipeline.output_names import output_uris, own_names
from comfyline.plan.check import validate_jobs
from comfyline.progress import Note, tell
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.storage.place import join

_READ_AT_ONCE = 8
"""Files whose bytes are compared at a time."""
_MANY = 5
"""Files of one folder of which it means something when most are gone."""


@dataclass(frozen=True, slots=True)
class Existing:
    """What is known before the first cost: what is there, and what has to be made.

    `to_make` holds a job's checked form, or None where its check fails; `validate` says why.
    `known` is what the ledger knows of them, by key. `mistakes` are those of all jobs, the same one
    said once; `notes` are sentences about what is no mistake and worth knowing. `away` says by its
    address of which folder so much is gone that the storage itself must be out of reach.
    """

    there: tuple[Outcome, ...]
    to_make: tuple[tuple[Job, CheckedJob | None], ...]
    known: Mapping[str, AnyAttempt]
    away: Mapping[str, Unreachable] = field(default_factory=dict)
    mistakes: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


async def find_existing(jobs: Sequence[Job], run: Run, services: Services) -> Existing:
    """Find out which jobs are there already. Spends and writes nothing.

    Each step is done for all jobs at once, because ten thousand steps of their own take minutes.
    """
    validation = await validate_jobs(jobs, services)
    for note in validation.notes:
        tell(Note(note))
    checked = validation.checked
    known: dict[str, AnyAttempt] = {
        **await services.ledger.summaries(list({one.key: None for one in checked if one}))
    }
    recognised = await recognise(checked, known, services)
    known |= recognised
    notes = validation.notes
    if services.is_reading:
        notes += tuple(foreseen_in_words(recognised.values()))
    claims = await asyncio.to_thread(_claims, jobs, checked, known, run, services.now())
    outputs = [output for claim in claims for output in claim]
    sizes = await services.places.sizes([output.uri for output in outputs])
    # Who wants every byte to be looked at has said so: what is gone is to come back.
    away = {} if run.verify else _away({uri: size is not None for uri, size in sizes.items()})
    lying = await _lying(outputs, sizes, run, services)
    there: list[Outcome] = []
    to_make: list[tuple[Job, CheckedJob | None]] = []
    for job, one, claim in zip(jobs, checked, claims, strict=True):
        attempt = known.get(one.key) if one else None
        if one and attempt and claim and lying.issuperset(claim):
            there.append(_reused(job, one, claim, attempt))
        elif one and attempt and run.new_only and _is_old(attempt, run, services.now()):
            there.append(replace(_reused(job, one, attempt.outputs, attempt), is_old=True))
        else:
            to_make.append((job, one))
    return Existing(
        there=tuple(there),
        to_make=tuple(to_make),
        known=known,
        away=away,
        mistakes=validation.mistakes,
        notes=notes,
    )


async def there_now(
    job: Job, checked: CheckedJob, attempt: AnyAttempt, run: Run, services: Services
) -> Outcome | None:
    """Find one job that another process has just stored; None if it is not there."""
    claim = claimed(job, attempt)
    sizes = await services.places.sizes([output.uri for output in claim])
    if not claim or not (await _lying(claim, sizes, run, services)).issuperset(claim):
        return None
    return _reused(job, checked, claim, attempt)


def folder_of(job: Job) -> str:
    """Return the address of the folder that a job's outputs go to."""
    return join(job.placement.folder, "x").rpartition("/")[0]


def _away(is_there: Mapping[str, bool]) -> dict[str, Unreachable]:
    """Tell folders out of reach: a share that is not mounted looks like an empty folder."""
    folders: dict[str, list[bool]] = defaultdict(list)
    for uri, there in is_there.items():
        folders[uri.rpartition("/")[0]].append(there)
    return {
        folder: Unreachable(
            f"{folder} cannot be what it was: of {len(found)} files that were paid for and stored "
            f"there {found.count(False)} are gone",
            hint="Mount it, or put them back, and run again. If they were removed on purpose, "
            "`--verify` fetches again what RunComfy still has.",
        )
        for folder, found in folders.items()
        if len(found) >= _MANY and found.count(False) * 2 > len(found)
    }


async def _lying(
    outputs: Sequence[StoredOutput], sizes: Mapping[str, int | None], run: Run, services: Services
) -> set[StoredOutput]:
    """Tell which outputs are really there: by their size, and with `verify` by every byte."""
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
    known: Mapping[str, AnyAttempt],
    run: Run,
    at: datetime,
) -> list[tuple[StoredOutput, ...]]:
    """List for each job the outputs that the ledger has under the job's own names; or none."""
    claims: list[tuple[StoredOutput, ...]] = []
    for job, one in zip(jobs, checked, strict=True):
        attempt = known.get(one.key) if one else None
        reuse = attempt and (
            decide(attempt, refresh=run.refresh, run_id=run.id, now=at) is Decision.REUSE
        )
        claims.append(claimed(job, attempt) if attempt and reuse else ())
    return claims


def _is_old(attempt: AnyAttempt, run: Run, at: datetime) -> bool:
    """Tell whether an earlier run of the same pipeline has made and delivered it."""
    reuse = decide(attempt, refresh=run.refresh, run_id=run.id, now=at) is Decision.REUSE
    return reuse and attempt.pipeline == run.pipeline and bool(attempt.outputs)


def claimed(job: Job, attempt: AnyAttempt) -> tuple[StoredOutput, ...]:
    """Return an attempt's outputs under this job's names; empty if any lies only elsewhere."""
    ones = {output.index: output for output in attempt.outputs}
    outputs = [ones[index] for index in sorted(ones)]
    recorded = {(output.index, output.uri): output for output in attempt.outputs}
    try:
        uris = output_uris(job.placement, outputs)
        mine = [recorded.get((one.index, uri)) for one, uri in zip(outputs, uris, strict=True)]
        if not all(mine):
            mine = _displaced(attempt, outputs, uris)
    except ComfylineError:
        return ()
    stored = tuple(one for one in mine if one)
    return stored if len(stored) == len(outputs) else ()


def _displaced(
    attempt: AnyAttempt, outputs: Sequence[StoredOutput], uris: Sequence[str]
) -> list[StoredOutput | None]:
    """Find outputs that lie under a version of a name, which another's file had.

    What is the attempt's own name as it was submitted is no version of another job's.
    """
    proper = {*output_uris(attempt.placement, outputs)}
    found: list[StoredOutput | None] = []
    for one, uri in zip(outputs, uris, strict=True):
        of_index = {other.uri: other for other in attempt.outputs if other.index == one.index}
        names = [name for name in own_names([*of_index], uri) if name == uri or name not in proper]
        found.append(of_index[names[0]] if names else None)
    return found


def _reused(
    job: Job, checked: CheckedJob, outputs: tuple[StoredOutput, ...], attempt: AnyAttempt
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
