"""Look at a whole run before its first cost: what is there, and what is to be made.

Spends and writes nothing: the plan stops here, a run goes on from here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from comfyline.errors import InputInvalid, Problem, TryLater, Unreachable
from comfyline.job import CheckedJob, Job
from comfyline.ledger.attempts import AnyAttempt
from comfyline.ledger.decision import Decision, decide
from comfyline.models.price import estimate as estimate_job
from comfyline.operations.first_use import first_use
from comfyline.plan.check import validate_jobs
from comfyline.plan.reuse import find_existing
from comfyline.plan.schedule import Schedule
from comfyline.progress import Note, tell
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.storage.origins import is_presigned

Validated = tuple[Job, CheckedJob | None]
"""A job with its checked form; None where its check fails, and `validate` says why."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """A run before its first cost.

    `there` are outcomes of what is there already, `ended` of what can never be made. `to_make` can
    be begun at once; `waiting` are placeholders of what needs the outputs of other jobs first.
    `known` is what the ledger knows, by key; `mistakes` are those of all jobs, each said once;
    `notes` are sentences about what is no mistake and worth knowing; `away` are folders out of
    reach, by their address.
    """

    there: tuple[Outcome, ...]
    ended: tuple[Outcome, ...]
    to_make: tuple[Validated, ...]
    waiting: tuple[Validated, ...]
    known: Mapping[str, AnyAttempt]
    away: Mapping[str, Unreachable] = field(default_factory=dict)
    mistakes: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def jobs(self) -> int:
        """How many jobs the run has, as far as can be told before."""
        return len(self.there) + len(self.ended) + len(self.to_make) + len(self.waiting)


@dataclass(slots=True)
class _Found:
    there: list[Outcome] = field(default_factory=list)
    ended: list[Outcome] = field(default_factory=list)
    to_make: list[Validated] = field(default_factory=list)
    known: dict[str, AnyAttempt] = field(default_factory=dict)
    away: dict[str, Unreachable] = field(default_factory=dict)
    mistakes: dict[Problem, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)


async def run_preflight(schedule: Schedule, run: Run, services: Services) -> Preflight:
    """Look at all jobs: those that need no other, then what depends on what is there.

    Each step of it is done for many jobs at once, because ten thousand of their own take minutes.
    """
    found = _Found()
    if said := await first_use(services):
        tell(Note(said))
        found.notes[said] = None
    new = schedule.begin()
    while new.jobs or new.outcomes:
        found.ended += new.outcomes
        found.mistakes |= dict.fromkeys(_mistakes(new.outcomes))
        existing = await find_existing(new.jobs, run, services)
        found.there += existing.there
        found.to_make += existing.to_make
        found.known |= existing.known
        found.away |= existing.away
        found.notes |= dict.fromkeys(map(str, existing.away.values()))
        found.mistakes |= dict.fromkeys(existing.mistakes)
        found.notes |= dict.fromkeys(existing.notes)
        new = schedule.all_ended(existing.there)
    waiting = schedule.waiting()
    validation = await validate_jobs(waiting, services)
    found.mistakes |= dict.fromkeys(validation.mistakes)
    found.notes |= dict.fromkeys(validation.notes)
    begun = [*found.to_make, *zip(waiting, validation.checked, strict=True)]
    found.mistakes |= dict.fromkeys(await _storage_problems(begun, run, services))
    return Preflight(
        there=tuple(_without_old(found.there, found.to_make, waiting)),
        ended=tuple(found.ended),
        to_make=tuple(found.to_make),
        waiting=tuple(zip(waiting, validation.checked, strict=True)),
        known=found.known,
        away=found.away,
        mistakes=tuple(found.mistakes),
        notes=tuple(found.notes),
    )


async def _storage_problems(
    begun: Sequence[Validated], run: Run, services: Services
) -> list[Problem]:
    """List why RunComfy would not get at the inputs of these jobs."""
    media = (medium for _, checked in begun if checked for medium in checked.media)
    if not any(is_presigned(medium.origin) or medium.conversion for medium in media):
        return []
    reach = services.uploads.reach_problem()
    life = await services.uploads.lifetime_problem(run.timeout)
    return [problem for problem in (reach, life) if problem]


async def estimate(preflight: Preflight, run: Run, services: Services) -> float | None:
    """Estimate what is still to be paid for; None if a price is unknown.

    What was paid for before and has to be collected or stored again costs nothing. Raises
    `TokenRejected`: there is no use in going on.
    """
    total = 0.0
    try:
        each = await prices(preflight, run, services)
    except (Unreachable, TryLater):
        # Every job says so that cannot be begun because of it.
        return None
    for price in each:
        if price is None:
            return None
        total += price
    return total


async def prices(preflight: Preflight, run: Run, services: Services) -> list[float | None]:
    """Estimate each job `to_make`, then each that is `waiting`.

    Of several jobs that ask for the very same, only the first is paid for.
    """
    found: list[float | None] = []
    paid: set[str] = set()
    for job, checked in (*preflight.to_make, *preflight.waiting):
        if checked is None or checked.key in paid:
            found.append(0.0)
            continue
        if checked.key:
            paid.add(checked.key)
        attempt = preflight.known.get(checked.key)
        if decision_about(job, attempt, run, services.now()) is Decision.SUBMIT:
            entry = await services.catalogue.priced(job.model_id)
            found.append(estimate_job(entry, job.inputs))
        else:
            found.append(0.0)
    return found


def decision_about(job: Job, attempt: AnyAttempt | None, run: Run, at: datetime) -> Decision:
    """Decide what a run would do at that moment about a job."""
    return decide(
        attempt,
        refresh=run.refresh,
        run_id=run.id,
        now=at,
        began=run.began,
        again=job.again,
    )


def _mistakes(ended: Iterable[Outcome]) -> Iterator[Problem]:
    """Yield what is wrong with jobs that could not even be rendered."""
    errors = (outcome.error for outcome in ended)
    return (p for error in errors if isinstance(error, InputInvalid) for p in error.problems)


def _without_old(
    there: list[Outcome], to_make: list[Validated], waiting: tuple[Job, ...]
) -> list[Outcome]:
    """Leave out items of which an earlier run has made everything."""
    alive = {job.item for job, _ in to_make} | {job.item for job in waiting}
    alive |= {outcome.job.item for outcome in there if not outcome.is_old}
    return [outcome for outcome in there if outcome.job.item in alive]
