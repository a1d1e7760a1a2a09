"""poll: waits until RunComfy has ended a request, however often that takes.

The waiting itself is scheduled in one place for all jobs (`runcomfy.poll`); what it costs is
questions, so a run that dies simply asks again. When the run is told to stop, the request is
cancelled if it still can be. May fail with `DeadlinePassed` (the request stays collectable),
`GenerationFailed`, `Cancelled`, `Interrupted`, `NotKnownNow`, `Expired` or `Unreachable`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from comfyline.errors import NotKnownNow
from comfyline.job import CheckedJob, Job, JobState, Stage
from comfyline.ledger.settle import settle
from comfyline.operations.cancel import cancel_submission
from comfyline.progress import JobGenerated, Note, tell
from comfyline.run import Run, Submission
from comfyline.runcomfy.durations import kind_of
from comfyline.runcomfy.poll import RequestEnd
from comfyline.runcomfy.wire import RequestStatus
from comfyline.services import Services
from tasks.failure import failing_in_words, not_known


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
        *(end.status, submission.attempt_id, request_id, spool, services.client, services.ledger),
        (end.queue_seconds, end.generation_seconds),
    ):
        raise error
    return replace(submission, state=JobState.COMPLETED)


async def _end(job: Job, submission: Submission, run: Run, services: Services) -> RequestEnd:
    """Return how the request ended, unless the run is told to stop before."""
    request_id = submission.request_id
    heard: set[str] = set()

    async def hear(status: RequestStatus) -> None:
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
    kind = kind_of(job.model_id, job.inputs)

    async def recall() -> Sequence[float]:
        took = await services.ledger.durations(job.model_id)
        same = [seconds for inputs, seconds in took if kind_of(job.model_id, inputs) == kind]
        return same or [seconds for _, seconds in took]

    asking = services.poller.wait(
        request_id, age=age, time_left=left, hear=hear, kind=kind, recall=recall
    )
    waiting = asyncio.ensure_future(asking)
    stopping = asyncio.ensure_future(run.cancel_token.cancelled())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            end = waiting.result()
            took = (end.queue_seconds, end.generation_seconds, end.lag_seconds)
            tell(JobGenerated(job, *took))
            return end
    except NotKnownNow as unknown:
        raise await not_known(unknown, submission, services) from None
    finally:
        waiting.cancel()
        stopping.cancel()
    raise await cancel_submission(submission, run, services)
