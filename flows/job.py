"""One job's way through the six stages, beginning where the ledger says it stands.

A job that was never submitted takes all six; one that RunComfy has already is polled, fetched and
persisted; one whose stored file is gone is fetched and persisted again.
"""

import asyncio
import time
from collections.abc import Awaitable
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
from comfyline.progress import Note, StageEntered, tell
from comfyline.report.thumbnails import make_thumbnails
from comfyline.run import FetchedOutputs, Outcome, Run, Submission
from comfyline.services import Services
from comfyline.storage.inputs import is_remote, origin_path
from comfyline.telemetry.spans import Fields, span
from tasks.failure import job_state_after, unwrap
from tasks.fetch import fetch
from tasks.persist import persist
from tasks.poll import poll
from tasks.submit import resume, submit
from tasks.upload_inputs import upload_inputs
from tasks.validate import validate

T = TypeVar("T")


async def run_job(job: Job, checked: CheckedJob | None, run: Run, services: Services) -> Outcome:
    """Bring one job as far as it gets. Errors are part of the outcome and stop no other job."""
    started = time.monotonic()
    outcome = Outcome(job=job, key=checked.key if checked else "", state=JobState.PLANNED)
    way = _Way(job, run, services)
    with span("job", _about(outcome)) as add:
        try:
            outcome = await way.until_accepted(checked, outcome)
        except Exception as caught:  # noqa: BLE001  # a defect of one job stops no other
            error = caught if isinstance(caught, ComfylineError) else Defect(caught)
            outcome = replace(
                outcome,
                state=job_state_after(error),
                stage=way.stage,
                error=error,
                request_id=error.request_id,
            )
            add({"error.type": error.kind})
        add({"comfyline.state": outcome.state, "comfyline.request_id": outcome.request_id})
    return replace(outcome, seconds=time.monotonic() - started)


def _about(outcome: Outcome) -> Fields:
    job = outcome.job
    return {
        "comfyline.job": outcome.key or None,
        "comfyline.pipeline": job.pipeline,
        "comfyline.item": job.item,
        "comfyline.step": job.step,
        "comfyline.model": job.model_id,
    }


class _Way:
    """A job on its way; `stage` is the one that it is in, None between two."""

    def __init__(self, job: Job, run: Run, services: Services) -> None:
        self.stage: Stage | None = None
        self._job = job
        self._run = run
        self._services = services

    async def until_accepted(self, checked: CheckedJob | None, outcome: Outcome) -> Outcome:
        """Try as often as the job allows for when what comes is rejected; the ledger counts."""
        while True:
            try:
                return await self._attempt(checked, outcome)
            except Rejected:
                stops = self._run.collects_only or self._run.cancel_token.is_cancelled
                if checked is None or stops:
                    raise
                if self._decision(await self._known(checked)) is not Decision.SUBMIT:
                    raise
                self.stage = None
                tell(Note(f"{self._job.label}: submitted again"))

    async def _attempt(self, checked: CheckedJob | None, outcome: Outcome) -> Outcome:
        job, run = self._job, self._run
        if away := run.away.get(folder_of(job)):
            raise away
        attempt = await self._known(checked) if checked else None
        restores = False
        match self._decision(attempt):
            case Decision.REUSE if attempt and checked:
                if there := await self._still_there(checked, attempt):
                    return there
                restores = True
                submission = resume(attempt)
            case Decision.RESUME if attempt and checked:
                submission = resume(attempt)
                if submission.state in AT_RUNCOMFY | {JobState.EXPIRED}:
                    async with run.slots.of(run.share_of(job)):
                        submission = await self._polled(checked, submission)
            case Decision.BLOCKED if attempt:
                self.stage = Stage.SUBMIT
                raise blocked(attempt)
            case _ if run.collects_only and attempt:
                # It ended in between; asking anew is for whoever wants the picture.
                self.stage = Stage.POLL
                raise blocked(attempt)
            case _ if run.cancel_token.is_cancelled:
                raise not_started(run.cancel_token.reason)
            case _:
                checked, submission = await self._make(checked)
        try:
            stored = await self._stored(checked, submission, again=restores)
        except Spoilt:
            stored = await self._stored(checked, submission, again=True)
        paid = (await self._services.ledger.summaries([checked.key]))[checked.key]
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

    async def _known(self, checked: CheckedJob) -> Attempt | None:
        return (await self._services.ledger.find([checked.key])).get(checked.key)

    def _decision(self, attempt: Attempt | None) -> Decision:
        return decision_about(self._job, attempt, self._run, self._services.now())

    async def _still_there(self, checked: CheckedJob, attempt: Attempt) -> Outcome | None:
        """Return what was stored before and is there; None when it has to be brought here again."""
        there = await there_now(self._job, checked, attempt, self._run, self._services)
        if there and attempt.state is JobState.EXPIRED:
            await self._services.ledger.persisted(attempt.id, there.outputs)
        if not there and (gone := claimed(self._job, attempt)):
            where = ", ".join(output.uri for output in gone)
            tell(Note(f"{self._job.label}: {where} is missing and is fetched again"))
        return there

    async def _make(self, found: CheckedJob | None) -> tuple[CheckedJob, Submission]:
        """Run the first four stages; hold the slot for as long as RunComfy has the request."""
        run, services = self._run, self._services
        validating = validate(linked(self._job), linked(found), services)
        checked = await self._through(Stage.VALIDATE, validating)
        uploaded = await self._through(
            Stage.UPLOAD_INPUTS, upload_inputs(linked(checked), services)
        )
        async with run.slots.of(run.share_of(self._job)):
            submitting = submit(linked(checked), linked(uploaded), run, services)
            submission = await self._through(Stage.SUBMIT, submitting)
            if submission.state in AT_RUNCOMFY:
                submission = await self._polled(checked, submission)
        return checked, submission

    async def _polled(self, checked: CheckedJob, submission: Submission) -> Submission:
        polling = poll(linked(checked), linked(submission), self._run, self._services)
        try:
            return await self._through(Stage.POLL, polling)
        finally:
            self._services.slots.freed()

    async def _stored(
        self, checked: CheckedJob, submission: Submission, *, again: bool
    ) -> tuple[StoredOutput, ...]:
        """Run the last two stages; with `again` whatever is remembered of the outputs."""
        services = self._services
        fetched = await self._fetched(checked, submission, again=again)
        pictures = [(Path(file.path), file.sha256) for file in fetched.files]
        inputs = [media for media in checked.media if not is_remote(media.origin)]
        pictures += [(origin_path(media.origin), media.sha256) for media in inputs]
        await asyncio.to_thread(make_thumbnails, pictures, services.thumbnails)
        persisting = persist(
            linked(checked), linked(submission), linked(fetched), self._run, services
        )
        stored = await self._through(Stage.PERSIST, persisting)
        if checked.job.step in self._run.hands_on:
            # A later step takes them as they lie there, without reading them once more.
            files = {file.index: file for file in fetched.files}
            for output in stored:
                services.inputs.know(output.uri, files[output.index])
        return stored

    async def _fetched(
        self, checked: CheckedJob, submission: Submission, *, again: bool
    ) -> FetchedOutputs:
        """Return the outputs on local disk, where a remembered answer only says that they were."""
        arguments = (linked(checked), linked(submission), self._services)
        fetched = None if again else await self._through(Stage.FETCH, fetch(*arguments))
        if fetched is None or not await asyncio.to_thread(_are_here, fetched):
            anew = fetch.with_options(refresh_cache=True)
            fetched = await self._through(Stage.FETCH, anew(*arguments))
        return fetched

    async def _through(self, stage: Stage, task: Awaitable[T | State[ComfylineError]]) -> T:
        self.stage = stage
        tell(StageEntered(self._job.label, self._job.label, stage))
        result = await unwrap(await task)
        self.stage = None
        return result


def _are_here(fetched: FetchedOutputs) -> bool:
    try:
        return all(Path(file.path).stat().st_size == file.bytes for file in fetched.files)
    except OSError:
        return False


def linked(value: T) -> T:
    """Wrap a value for a task, so that Prefect draws an edge by it and by nothing in it.

    Prefect finds a task's parents by looking for known objects in its parameters, down to the
    bottom and by `id`: shared parts, such as an empty tuple, would tie jobs together that have
    nothing to do with one another. Values that travel therefore have a weakref slot.
    """
    return cast("T", opaque(value))
