"""poll: waits until RunComfy has ended a request, however often that takes.

The waiting itself is scheduled in one place for all jobs (`runcomfy.poll`); what it costs is
questions, so a run that dies simply asks again. When the run is told to stop, the request is
cancelled if it still can be. May fail with `DeadlinePassed` (the request stays collectable),
`GenerationFailed`, `Cancelled`, `Interrupted`, `NotKnownNow`, `Expired` or `Unreachable`.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from comfyline.errors import NotKnownNow
from comfyline.job import CheckedJob, Job, JobState, Stage
from comfyline.ledger.settle import settle
from comfyline.operations.cancel import cancel_submission
from comfyline.progress import JobGenerated, Note, tell
from comfyline.run import Run, Submission
from comfyline.runcomfy.wire import RequestStatus
from comfyline.services import Services
from tasks.failure import failing_in_words, not_known

_FRESH = timedelta(seconds=5)
"""How old a request may be that was surely in the queue until the first answer."""


@task(
    name=Stage.POLL,
    task_run_name="{checked.job.label} · poll",
    # The ledger has the end before this returns.
    cache_policy=NO_CACHE,
    # The client repeats a failed question for as long as the profile's patience lasts.
    retries=0,
)
@failing_in_words
async def poll(
    checked: CheckedJob, submission: Submission, run: Run, services: Services
) -> Submission:
    """Wait until RunComfy has completed a submission, and return it."""
    end = await _end(checked.job, submission, run, services)
    request_id = submission.request_id
    spool = services.work_directory(request_id) / "result.json"
    if error := await settle(
        end, submission.attempt_id, request_id, spool, services.client, services.ledger
    ):
        raise error
    return replace(submission, state=JobState.COMPLETED)


async def _end(job: Job, submission: Submission, run: Run, services: Services) -> RequestStatus:
    """Return the status with which the request ended, unless the run is told to stop before."""
    request_id = submission.request_id
    heard: set[str] = set()
    timing = _Timing(submission, services)

    async def hear(status: RequestStatus) -> None:
        timing.hear(status)
        if status.word in heard:
            return
        heard.add(status.word)
        get_run_logger().info("request %s: %s", request_id, status.word)
        if status.state is None:
            tell(Note(f"{job.label}: RunComfy says {status.word!r}, which is not documented"))
        elif status.state in {JobState.IN_QUEUE, JobState.IN_PROGRESS}:
            await services.ledger.observed(submission.attempt_id, status.state)

    age = max(0.0, (services.now() - submission.submitted_at).total_seconds())
    left = run.time_left(age)
    asking = services.poller.wait(request_id, age=age, time_left=left, hear=hear)
    waiting = asyncio.ensure_future(asking)
    stopping = asyncio.ensure_future(run.cancel_token.cancelled())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            end = waiting.result()
            tell(timing.generated(job))
            return end
    except NotKnownNow as unknown:
        raise await not_known(unknown, submission, services) from None
    finally:
        waiting.cancel()
        stopping.cancel()
    raise await cancel_submission(submission, run, services)


class _Timing:
    """When a request left the queue and when it ended, as near as the answers tell.

    Of one that had left the queue when this process first asked, nobody knows when it began, unless
    it was submitted a moment ago.
    """

    def __init__(self, submission: Submission, services: Services) -> None:
        self._born = submission.submitted_at
        self._now = services.now
        self._knows = services.now() - submission.submitted_at < _FRESH
        self._began: datetime | None = None
        self._before = self._last = submission.submitted_at

    def hear(self, status: RequestStatus) -> None:
        """Take one answer in."""
        self._before, self._last = self._last, self._now()
        if status.state is JobState.IN_QUEUE:
            self._knows = True
        elif self._began is None and status.state:
            # One that was over at once began after the answer that still had it in the queue.
            over = status.state is not JobState.IN_PROGRESS
            self._began = self._before if over else self._last

    def generated(self, job: Job) -> JobGenerated:
        """Return the lengths of time, once the last answer was the end."""
        queue = generation = None
        if self._knows and self._began:
            queue = (self._began - self._born).total_seconds()
            generation = (self._last - self._began).total_seconds()
        return JobGenerated(job, queue, generation, (self._last - self._before).total_seconds())
