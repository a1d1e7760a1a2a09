"""Look at a whole run before its first cost: what is there, what is to be made, and for how much.

Spends nothing: the plan stops here, a run goes on from here. Each step is done for many jobs at
once, because ten thousand steps of their own take minutes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from comfyline.errors import ComfylineError, InputInvalid, Problem, TryLater, Unreachable
from comfyline.job import CheckedJob, Job, JobState, StoredOutput
from comfyline.ledger.attempts import AnyAttempt
from comfyline.ledger.decision import Decision, decide
from comfyline.models.price import estimate as estimate_job
from comfyline.operations.adopt import explain_adoption, first_use, recognise
from comfyline.pipeline.output_names import output_uris, own_names
from comfyline.plan.check import validate_jobs
from comfyline.plan.schedule import Schedule
from comfyline.progress import Note, tell
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.storage.inputs import is_presigned
from comfyline.storage.place import all_of, join

Validated = tuple[Job, CheckedJob | None]
"""A job with its checked form; None where its check fails, and `validate` says why."""

_READ_AT_ONCE = 8
"""Files whose bytes are compared at a time."""
_MANY = 5
"""Files of one folder of which it means something when most are gone."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """A run, or a part of it, before its first cost.

    `there` are outcomes of what is there already, `ended` of what can never be made. `to_make` can
    be begun at once; `waiting` are placeholders of what needs the outputs of other jobs first.
    `known` is what the ledger knows, by key. `away` says by its address of which folder so much is
    gone that the storage itself must be out of reach. `mistakes` are those of all jobs, each said
    once; `notes` are sentences about what is no mistake and worth knowing.
    """

    there: tuple[Outcome, ...] = ()
    ended: tuple[Outcome, ...] = ()
    to_make: tuple[Validated, ...] = ()
    waiting: tuple[Validated, ...] = ()
    known: Mapping[str, AnyAttempt] = field(default_factory=dict)
    away: Mapping[str, Unreachable] = field(default_factory=dict)
    mistakes: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Preflight") -> "Preflight":
        return Preflight(
            there=self.there + other.there,
            ended=self.ended + other.ended,
            to_make=self.to_make + other.to_make,
            waiting=self.waiting + other.waiting,
            known={**self.known, **other.known},
            away={**self.away, **other.away},
            mistakes=tuple(dict.fromkeys(self.mistakes + other.mistakes)),
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
        )

    @property
    def jobs(self) -> int:
        """How many jobs the run has, as far as can be told before."""
        return len(self.there) + len(self.ended) + len(self.to_make) + len(self.waiting)


async def run_preflight(schedule: Schedule, run: Run, services: Services) -> Preflight:
    """Look at all jobs: those that need no other, then what depends on what is there."""
    found = Preflight()
    if said := await first_use(services):
        tell(Note(said))
        found += Preflight(notes=(said,))
    new = schedule.begin()
    while new.jobs or new.outcomes:
        existing = await find_existing(new.jobs, run, services)
        found += Preflight(ended=new.outcomes, mistakes=_mistakes(new.outcomes)) + existing
        new = schedule.all_ended(existing.there)
    waiting = schedule.waiting()
    validation = await validate_jobs(waiting, services)
    found += Preflight(
        waiting=tuple(zip(waiting, validation.checked, strict=True)),
        mistakes=validation.mistakes,
        notes=validation.notes,
    )
    found += Preflight(mistakes=await _storage_problems(found, run, services))
    return replace(found, there=_without_old(found))


async def find_existing(jobs: Sequence[Job], run: Run, services: Services) -> Preflight:
    """Find out which of these jobs, which need no other, are there already."""
    validation = await validate_jobs(jobs, services)
    for note in validation.notes:
        tell(Note(note))
    checked = validation.checked
    known: dict[str, AnyAttempt] = {
        **await services.ledger.summaries(list({one.key: None for one in checked if one}))
    }
    recognised = await recognise(checked, known, services)
    known |= recognised
    foreseen = explain_adoption(recognised.values()) if services.is_reading else ()
    at = services.now()
    attempts = [known.get(one.key) if one else None for one in checked]
    reusable = [
        attempt if decision_about(job, attempt, run, at) is Decision.REUSE else None
        for job, attempt in zip(jobs, attempts, strict=True)
    ]
    # In a thread: ten thousand names take a second to render.
    claims = await asyncio.to_thread(
        lambda: [
            claimed(job, attempt) if attempt else ()
            for job, attempt in zip(jobs, reusable, strict=True)
        ]
    )
    outputs = [output for claim in claims for output in claim]
    sizes = await services.places.sizes([output.uri for output in outputs])
    # Who wants every byte to be looked at has said so: what is gone is to come back.
    away = {} if run.verify else _away({uri: size is not None for uri, size in sizes.items()})
    lying = await _lying(outputs, sizes, run, services)
    there: list[Outcome] = []
    to_make: list[Validated] = []
    for job, one, attempt, claim in zip(jobs, checked, reusable, claims, strict=True):
        if one and attempt and claim and lying.issuperset(claim):
            there.append(_reused(job, one, claim, attempt))
        elif one and attempt and run.new_only and _is_delivered(attempt, run):
            there.append(replace(_reused(job, one, attempt.outputs, attempt), is_old=True))
        else:
            to_make.append((job, one))
    return Preflight(
        there=tuple(there),
        to_make=tuple(to_make),
        known=known,
        away=away,
        mistakes=validation.mistakes,
        notes=(*map(str, away.values()), *validation.notes, *foreseen),
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


def decision_about(job: Job, attempt: AnyAttempt | None, run: Run, at: datetime) -> Decision:
    """Decide what a run would do at that moment about a job."""
    return decide(
        attempt, refresh=run.refresh, run_id=run.id, now=at, began=run.began, again=job.again
    )


def folder_of(job: Job) -> str:
    """Return the address of the folder that a job's outputs go to."""
    return join(job.placement.folder, "x").rpartition("/")[0]


async def estimate(preflight: Preflight, run: Run, services: Services) -> float | None:
    """Estimate what is still to be paid for; None if a price is unknown.

    What was paid for before and has to be collected or stored again costs nothing. Raises
    `TokenRejected`: there is no use in going on.
    """
    try:
        each = await prices(preflight, run, services)
    except (Unreachable, TryLater):
        # Every job says so that cannot be begun because of it.
        return None
    known = [price for price in each if price is not None]
    return sum(known, 0.0) if len(known) == len(each) else None


async def prices(preflight: Preflight, run: Run, services: Services) -> list[float | None]:
    """Estimate each job `to_make`, then each that is `waiting`.

    Of several jobs that ask for the very same, only the first is paid for.
    """
    found: list[float | None] = []
    paid: set[str] = set()
    for job, checked in (*preflight.to_make, *preflight.waiting):
        attempt = preflight.known.get(checked.key) if checked else None
        is_paid = checked is None or checked.key in paid
        if is_paid or decision_about(job, attempt, run, services.now()) is not Decision.SUBMIT:
            found.append(0.0)
        else:
            found.append(estimate_job(await services.catalogue.priced(job.model_id), job.inputs))
        if checked and checked.key:
            paid.add(checked.key)
    return found


def _mistakes(ended: Iterable[Outcome]) -> tuple[Problem, ...]:
    """List what is wrong with jobs that could not even be rendered."""
    errors = (outcome.error for outcome in ended)
    return tuple(p for error in errors if isinstance(error, InputInvalid) for p in error.problems)


async def _storage_problems(
    preflight: Preflight, run: Run, services: Services
) -> tuple[Problem, ...]:
    """List why RunComfy would not get at the inputs of these jobs."""
    begun = (*preflight.to_make, *preflight.waiting)
    media = (medium for _, checked in begun if checked for medium in checked.media)
    if not any(is_presigned(medium.origin) or medium.conversion for medium in media):
        return ()
    reach = services.uploads.reach_problem()
    life = await services.uploads.lifetime_problem(run.timeout)
    return tuple(problem for problem in (reach, life) if problem)


def _without_old(found: Preflight) -> tuple[Outcome, ...]:
    """Leave out items of which an earlier run has made everything."""
    alive = {job.item for job, _ in (*found.to_make, *found.waiting)}
    alive |= {outcome.job.item for outcome in found.there if not outcome.is_old}
    return tuple(outcome for outcome in found.there if outcome.job.item in alive)


def _is_delivered(attempt: AnyAttempt, run: Run) -> bool:
    """Tell whether an earlier run of the same pipeline has made and delivered it."""
    return attempt.pipeline == run.pipeline and bool(attempt.outputs)


def _away(is_there: Mapping[str, bool]) -> dict[str, Unreachable]:
    """Tell folders out of reach: a share that is not mounted looks like an empty folder."""
    folders: dict[str, list[bool]] = defaultdict(list)
    for uri, there in is_there.items():
        folders[uri.rpartition("/")[0]].append(there)
    return {
        folder: Unreachable(
            f"{folder} is incomplete: of {len(found)} files paid for and stored there, "
            f"{found.count(False)} are missing",
            hint="Mount it, or restore them, and run again. If they were removed on purpose, "
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

    async def is_whole(output: StoredOutput) -> bool:
        return await services.places.of(output.uri).sha256(output.uri) == output.sha256

    ordered = list(found)
    whole = await all_of(map(is_whole, ordered), _READ_AT_ONCE)
    return {output for output, right in zip(ordered, whole, strict=True) if right}


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
