"""One job's way through the six stages, beginning where the ledger says it stands.

A job that was never submitted takes all six; one that RunComfy has already is polled, fetched and
persisted; one whose stored file is gone is fetched and persisted again.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from prefect.client.schemas.objects import State
from prefect.utilities.annotations import opaque

from comfyline.errors import ComfylineError, Defect, Rejected, Spoilt
from comfyline.job import AT_RUNCOMFY, CheckedJob, Job, JobState, Stage, StoredOutput
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import blocked, not_started
from comfyline.ledger.decision import Decision
from comfyline.plan.reuse import claimed, decision_about, folder_of, there_now
from comfyline.progress import Note, tell
from comfyline.report.thumbnails import make_thumbnail
from comfyline.run import FetchedOutputs, Outcome, Run, Submission
from comfyline.services import Services
from comfyline.storage.facts import Facts
from comfyline.storage.origins import is_remote, origin_path
from tasks.failure import job_state_after, unwrap
from tasks.fetch import fetch
from tasks.persist import persist
from tasks.poll import poll
from tasks.submit import resume, submit
from tasks.upload_inputs import upload_inputs
from tasks.validate import validate

T = TypeVar("T")


class _Stopped(Exception):  # it stops one job and never leaves this module
    """A job can go no further; `stage` is None where it stopped between two stages."""

    def __init__(self, stage: Stage | None, error: ComfylineError) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error


async def run_job(job: Job, checked: CheckedJob | None, run: Run, services: Services) -> Outcome:
    """Bring one job as far as it gets. Errors are part of the outcome and stop no other job."""
    started = time.monotonic()
    outcome = Outcome(job=job, key=checked.key if checked else "", state=JobState.PLANNED)
    try:
        outcome = await _through(None, _until_accepted(job, checked, outcome, run, services))
    except _Stopped as stopped:
        error = stopped.error
        outcome = replace(
            outcome,
            state=job_state_after(error),
            stage=stopped.stage,
            error=error,
            request_id=error.request_id,
        )
    return replace(outcome, seconds=time.monotonic() - started)


async def _until_accepted(
    job: Job, checked: CheckedJob | None, outcome: Outcome, run: Run, services: Services
) -> Outcome:
    """Try as often as the job allows for when what comes is rejected; the ledger counts."""
    while True:
        try:
            return await _attempt(job, checked, outcome, run, services)
        except _Stopped as stopped:
            rejected = stopped.stage is Stage.PERSIST and isinstance(stopped.error, Rejected)
            if (
                not rejected
                or checked is None
                or run.collects_only
                or run.cancel_token.is_cancelled
            ):
                raise
            attempt = (await services.ledger.find([checked.key])).get(checked.key)
            if decision_about(job, attempt, run, services.now()) is not Decision.SUBMIT:
                raise
            tell(Note(f"{job.label}: asked for again"))


async def _attempt(
    job: Job, checked: CheckedJob | None, outcome: Outcome, run: Run, services: Services
) -> Outcome:
    if away := run.away.get(folder_of(job)):
        raise _Stopped(None, away)
    attempt = (await services.ledger.find([checked.key])).get(checked.key) if checked else None
    restores = False
    match decision_about(job, attempt, run, services.now()):
        case Decision.REUSE if attempt and checked:
            if there := await _still_there(job, checked, attempt, run, services):
                return there
            restores = True
            submission = resume(attempt)
        case Decision.RESUME if attempt and checked:
            submission = resume(attempt)
            if submission.state in AT_RUNCOMFY | {JobState.EXPIRED}:
                async with run.slots:
                    submission = await _polled(checked, submission, run, services)
        case Decision.BLOCKED if attempt:
            raise _Stopped(Stage.SUBMIT, blocked(attempt))
        case _ if run.collects_only and attempt:
            # It ended in between; asking anew is for whoever wants the picture.
            raise _Stopped(Stage.POLL, blocked(attempt))
        case _ if run.cancel_token.is_cancelled:
            raise _Stopped(None, not_started(run.cancel_token.reason))
        case _:
            checked, submission = await _make(job, checked, run, services)
    try:
        stored = await _stored(checked, submission, run, services, again=restores)
    except _Stopped as stopped:
        if not isinstance(stopped.error, Spoilt):
            raise
        stored = await _stored(checked, submission, run, services, again=True)
    paid = (await services.ledger.find([checked.key]))[checked.key]
    # What another run has paid, or another job of this one, is not paid by this job.
    paid_here = paid.run_id == run.id and not submission.copies
    return replace(
        outcome,
        key=checked.key,
        state=JobState.PERSISTED,
        checked=checked,
        outputs=stored,
        cost_usd=paid.cost_usd if paid_here else None,
        cost_unknown=paid_here and paid.cost_usd is None,
        request_id=submission.request_id,
    )


async def _still_there(
    job: Job, checked: CheckedJob, attempt: Attempt, run: Run, services: Services
) -> Outcome | None:
    """Return what was stored before and is there; None when it has to be brought here again."""
    there = await there_now(job, checked, attempt, run, services)
    if there and attempt.state is JobState.EXPIRED:
        await services.ledger.persisted(attempt.id, there.outputs)
    if not there and (gone := claimed(job, attempt)):
        where = ", ".join(output.uri for output in gone)
        tell(Note(f"{job.label}: what was stored as {where} is gone and is fetched again"))
    return there


async def _make(
    job: Job, found: CheckedJob | None, run: Run, services: Services
) -> tuple[CheckedJob, Submission]:
    """Run the first four stages; hold the slot for as long as RunComfy has the request."""
    checked = await _through(Stage.VALIDATE, validate(linked(job), linked(found), services))
    uploaded = await _through(Stage.UPLOAD_INPUTS, upload_inputs(linked(checked), services))
    async with run.slots:
        submission = await _through(
            Stage.SUBMIT, submit(linked(checked), linked(uploaded), run, services)
        )
        if submission.state in AT_RUNCOMFY:
            submission = await _polled(checked, submission, run, services)
    return checked, submission


async def _polled(
    checked: CheckedJob, submission: Submission, run: Run, services: Services
) -> Submission:
    ended = await _through(Stage.POLL, poll(linked(checked), linked(submission), run, services))
    if ended.state is JobState.COMPLETED:
        # A remembered answer is the cache's word; the ledger hears it again, which changes nothing.
        await services.ledger.completed(submission.attempt_id, None)
    return ended


async def _stored(
    checked: CheckedJob, submission: Submission, run: Run, services: Services, *, again: bool
) -> tuple[StoredOutput, ...]:
    """Run the last two stages; with `again` fetch the outputs whatever is remembered of them."""
    fetched = await _fetched(checked, submission, services, again=again)
    await asyncio.to_thread(_thumbnails, checked, fetched, services.thumbnails)
    stored = await _through(
        Stage.PERSIST,
        persist(linked(checked), linked(submission), linked(fetched), run, services),
    )
    if checked.job.step in run.hands_on:
        # A later step takes them as they lie there, without reading them once more.
        files = {file.index: file for file in fetched.files}
        for output in stored:
            file = files[output.index]
            services.origins.know(output.uri, Facts(file.sha256, file.bytes, file.info))
    return stored


async def _fetched(
    checked: CheckedJob, submission: Submission, services: Services, *, again: bool
) -> FetchedOutputs:
    """Return the outputs on local disk, where a remembered answer only says that they once were."""
    arguments = (linked(checked), linked(submission), services)
    fetched = None if again else await _through(Stage.FETCH, fetch(*arguments))
    if fetched is None or not await asyncio.to_thread(_are_here, fetched):
        anew = fetch.with_options(refresh_cache=True)
        fetched = await _through(Stage.FETCH, anew(*arguments))
    return fetched


def _are_here(fetched: FetchedOutputs) -> bool:
    try:
        return all(Path(file.path).stat().st_size == file.bytes for file in fetched.files)
    except OSError:
        return False


async def _through(stage: Stage | None, result: Awaitable[T | State[ComfylineError]]) -> T:
    try:
        return await unwrap(await result)
    except _Stopped:
        raise
    except ComfylineError as error:
        raise _Stopped(stage, error) from error
    except Exception as error:
        raise _Stopped(stage, Defect(error)) from error


def _thumbnails(checked: CheckedJob, fetched: FetchedOutputs, directory: Path) -> None:
    """Make small pictures for the gallery while the files are at hand, named by content.

    A gallery without one is still a gallery: a full disk must not keep a result from being stored.
    """
    sources = [(Path(file.path), file.sha256) for file in fetched.files]
    sources += [(origin_path(m.origin), m.sha256) for m in checked.media if not is_remote(m.origin)]
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        for source, sha256 in sources:
            target = directory / f"{sha256}.jpg"
            if not target.exists():
                make_thumbnail(source, target)


def linked(value: T) -> T:
    """Wrap a value for a task, so that Prefect draws an edge by it and by nothing in it.

    Prefect finds a task's parents by looking for known objects in its parameters, down to the
    bottom and by `id`: shared parts, such as an empty tuple, would tie jobs together that have
    nothing to do with one another. Values that travel therefore have a weakref slot.
    """
    return cast("T", opaque(value))
