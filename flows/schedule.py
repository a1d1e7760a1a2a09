"""All jobs of a run: what is there is reused before a task is made, the rest goes its own way.

No stage waits for all of another, and no step either: a job is begun as soon as what it needs has
been made. A window of jobs is open at a time, so that memory follows the number of jobs in flight
and not of jobs in all. A job that another process works on is put off: the others come first, and
then its result is waited for, or the job taken over.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from comfyline.errors import ComfylineError
from comfyline.fair_share import FairLine
from comfyline.job import CheckedJob, Job, JobState
from comfyline.ledger.block_reasons import not_started
from comfyline.ledger.queries import Selection
from comfyline.operations.adopt import recognise
from comfyline.operations.cancel import cancel_run
from comfyline.operations.recover import clean_up
from comfyline.plan.check import validate_jobs
from comfyline.plan.reuse import Preflight, Validated, estimate, run_preflight
from comfyline.plan.schedule import Schedule
from comfyline.plan.shards import ShardResults
from comfyline.progress import JobEnded, Note, RunPlanned, tell
from comfyline.report.format import count
from comfyline.run import Outcome, Run
from comfyline.services import Services
from flows.job import run_job

_BESIDE_FLIGHT = 8
"""Jobs open beyond those at RunComfy: enough to upload ahead and fetch behind."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks at what other processes work on."""

_NOT_CUT = ShardResults()

Unlock = Callable[[Outcome], Sequence[Job]]
"""Takes in what became of a job, and names the jobs that can be begun now."""


def _nothing(_: Outcome) -> Sequence[Job]:
    return ()


async def execute(
    schedule: Schedule, run: Run, services: Services, shards: ShardResults = _NOT_CUT
) -> list[Outcome]:
    """Bring every job to an end and return what became of each, by item and step.

    What the run's `shards` have come to is taken from there.
    """
    if run.began is None:
        run.began = await services.ledger.open_run(run.id, run.pipeline)
    if not run.is_shard:
        # Of a run that is retried, the earlier tries are a part, in its budget and its report.
        before = await services.ledger.list(Selection(run_id=run.id))
        run.submitted = sum(attempt.state is not JobState.PLANNED for attempt in before)
    await clean_up((job.placement.folder for job in schedule.expected()), services)
    preflight = await run_preflight(schedule, run, services)
    run.away |= preflight.away
    await _turned_up(preflight, services)
    there = shards.credited(preflight.there, preflight.known, run.id)
    planned = await planned_run(preflight, there, run, services)
    if shards.of > 1:
        planned = replace(planned, estimate_usd=shards.estimate_usd)
    if not run.is_shard:
        tell(planned)
    left_out = schedule.jobs - preflight.jobs
    never = list(preflight.ended)

    def unlock(outcome: Outcome) -> Sequence[Job]:
        new = schedule.ended(outcome)
        never.extend(new.outcomes)
        for one in new.outcomes:
            _tell_end(one, shards)
        # A step fanned out over more, or fewer, than its model was expected to make.
        if (jobs := schedule.jobs - left_out) != planned.jobs and not run.is_shard:
            tell(replace(planned, jobs=jobs))
        return new.jobs

    for outcome in never:
        _tell_end(outcome, shards)
    # All that is wrong is told before anything is uploaded.
    hopeless = schedule.give_up(job for job, checked in preflight.waiting if checked is None)
    wrong: list[Validated] = [(job, None) for job in hopeless]
    wrong += [(job, checked) for job, checked in preflight.to_make if checked is None]
    right = [(job, checked) for job, checked in preflight.to_make if checked is not None]
    outcomes = [*there]
    for some in (wrong, right):
        outcomes += await run_jobs(some, run, services, unlock=unlock, shards=shards)
    return sorted([*outcomes, *never], key=lambda one: schedule.position(one.job))


async def planned_run(
    preflight: Preflight, there: Sequence[Outcome], run: Run, services: Services
) -> RunPlanned:
    """Say how many jobs a run has, of which those `there` that it has not made itself."""
    return RunPlanned(
        run_id=run.id,
        pipeline=run.pipeline,
        jobs=preflight.jobs,
        reused=sum(outcome.reused for outcome in there),
        estimate_usd=await estimate(preflight, run, services),
    )


async def _turned_up(preflight: Preflight, services: Services) -> None:
    """Write down that what was given up as expired lies where it was stored."""
    for outcome in preflight.there:
        if preflight.known[outcome.key].state is JobState.EXPIRED:
            attempt = (await services.ledger.find([outcome.key]))[outcome.key]
            await services.ledger.persisted(attempt.id, outcome.outputs)


async def run_jobs(
    to_make: Sequence[Validated],
    run: Run,
    services: Services,
    *,
    waits_for_others: bool = True,
    unlock: Unlock = _nothing,
    shards: ShardResults = _NOT_CUT,
) -> list[Outcome]:
    """Bring these jobs to an end, begun in their order, and return what became of them.

    The jobs that these unlock are among them. Without `waits_for_others`, what other processes
    work on is left to them and has no outcome.
    """
    queue = _JobQueue(run, services, unlock, shards)
    queue.add(to_make)
    left: ComfylineError | None = None
    try:
        await queue.run()
        while queue.elsewhere and waits_for_others and queue.goes_on:
            tell(Note(f"waiting for {count(len(queue.elsewhere), 'job')} of another process"))
            await queue.take_freed()
            await queue.run()
    except ComfylineError as error:
        left = error
    except asyncio.CancelledError:
        # Prefect cancels a worker's flow so: what is queued is cancelled before the process ends.
        with suppress(ComfylineError):
            await cancel_run(run, services)
        raise
    if queue.elsewhere and not waits_for_others:
        tell(Note(f"{count(len(queue.elsewhere), 'job')} left to the process working on it"))
    else:
        spent = services.client.retry_budget.spent
        await queue.leave(left or spent or not_started(run.cancel_token.reason))
    return queue.outcomes


@dataclass(slots=True)
class Batch:
    """Jobs with one key: the second takes what the first has paid for.

    `share` is for whom they take slots.
    """

    key: str
    share: str
    jobs: list[Validated] = field(default_factory=list)


class _FairQueue(asyncio.Queue["Batch"]):
    """A queue from which the share comes next that has the fewest batches under way."""

    def _init(self, maxsize: int) -> None:  # noqa: ARG002  # asyncio's signature
        self._queue: FairLine[Batch] = FairLine()

    def _put(self, item: "Batch") -> None:
        self._queue.add(item.share, item)

    def _get(self) -> "Batch":
        share, batch = self._queue.take()
        self._queue.held[share] += 1
        return batch

    def done(self, batch: "Batch") -> None:
        """Note that a batch is at its end."""
        self._queue.held[batch.share] -= 1
        self.task_done()


class _JobQueue:
    """Batches of jobs that wait for their turn or are under way, and those that others hold."""

    def __init__(self, run: Run, services: Services, unlock: Unlock, shards: ShardResults) -> None:
        self.elsewhere: list[Batch] = []
        self.outcomes: list[Outcome] = []
        self._ready = _FairQueue()
        self._open: dict[str, Batch] = {}
        self._run = run
        self._services = services
        self._unlock = unlock
        self._shards = shards

    @property
    def goes_on(self) -> bool:
        """Whether anything more is begun in this run."""
        return not (self._run.cancel_token.is_cancelled or self._services.client.retry_budget.spent)

    def add(self, jobs: Iterable[Validated]) -> None:
        """Line jobs up; one that asks for what is in line already, or under way, joins it."""
        for job, checked in jobs:
            batch = self._open.get(checked.key) if checked else None
            if batch is None:
                batch = Batch(checked.key if checked else "", self._run.share_of(job))
                self._ready.put_nowait(batch)
                if checked:
                    self._open[checked.key] = batch
            batch.jobs.append((job, checked))

    async def run(self) -> None:
        """Run all that waits and all that it unlocks, in a window."""
        async with asyncio.TaskGroup() as group:
            window = range(self._run.in_flight + _BESIDE_FLIGHT)
            workers = [group.create_task(self._work()) for _ in window]
            await self._ready.join()
            for worker in workers:
                worker.cancel()

    async def take_freed(self) -> None:
        """Wait until other processes let go of some jobs, and line those up again.

        Does nothing when the run is told to stop before, or RunComfy is away for too long.
        """
        while self.goes_on:
            keys = sorted({batch.key for batch in self.elsewhere})
            free = await self._services.ledger.unlocked(keys)
            freed = [batch for batch in self.elsewhere if batch.key in free]
            if freed:
                self.elsewhere = [batch for batch in self.elsewhere if batch.key not in free]
                for batch in freed:
                    self.add(batch.jobs)
                return
            await self._run.cancel_token.cancelled_within(_LOOK_AGAIN)

    async def leave(self, why: ComfylineError) -> None:
        """Give up what others hold."""
        while self.elsewhere:
            await self._end_all(self.elsewhere.pop(), why)

    async def _work(self) -> None:
        while True:
            batch = await self._ready.get()
            try:
                await self._run_batch(batch)
            finally:
                self._close(batch)
                self._ready.done(batch)

    def _close(self, batch: Batch) -> None:
        """Let no more jobs join a batch."""
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]

    async def _run_batch(self, batch: Batch) -> None:
        ledger = self._services.ledger
        batch.jobs = [one for one in batch.jobs if not await self._end_as_told(*one)]
        if not batch.jobs:
            return
        _, first = batch.jobs[0]
        try:
            if away := self._services.client.retry_budget.spent:
                raise away
            if first and not await ledger.acquire(first.key):
                self.elsewhere.append(batch)
                return
        except ComfylineError as error:
            await self._end_all(batch, error)
            return
        # The list may grow meanwhile: a job that has just been unlocked may ask for the same.
        for job, checked in batch.jobs:
            await self._end(await run_job(job, checked, self._run, self._services))
        self._close(batch)
        if first:
            # What cannot be given up lapses by itself.
            with suppress(ComfylineError):
                await ledger.release(first.key)

    async def _end_as_told(self, job: Job, checked: CheckedJob | None) -> bool:
        """End a job as it ended in its shard; return whether it did there."""
        outcome = self._shards.outcome(job, checked.key if checked else "")
        if outcome:
            await self._end(replace(outcome, checked=checked))
        return outcome is not None

    async def _end_all(self, batch: Batch, error: ComfylineError) -> None:
        """End jobs that were not even begun."""
        for job, checked in batch.jobs:
            key = checked.key if checked else ""
            await self._end(Outcome(job, key, JobState.PLANNED, error=error))

    async def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        _tell_end(outcome, self._shards)
        if jobs := self._unlock(outcome):
            try:
                self.add(await self._validated(jobs))
            except ComfylineError as error:
                await self._end_all(Batch("", "", [(job, None) for job in jobs]), error)

    async def _validated(self, jobs: Sequence[Job]) -> Iterable[Validated]:
        validation = await validate_jobs(jobs, self._services)
        # What another ledger had stored is not paid for again.
        keys = [one.key for one in validation.checked if one]
        known = await self._services.ledger.summaries(keys)
        await recognise(validation.checked, known, self._services)
        return zip(jobs, validation.checked, strict=True)


def _tell_end(outcome: Outcome, shards: ShardResults) -> None:
    if not shards.has_told(outcome):
        tell(JobEnded(outcome))
