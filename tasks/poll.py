"""poll: waits until RunComfy has ended a request, however often that takes.

The waiting itself is scheduled in one place for all jobs (`runcomfy.poller`); what it costs is
questions, so a run that dies simply asks again. May fail with `DeadlinePassed` (the request stays
collectable), `GenerationFailed`, `Cancelled`, `Expired` or `Unreachable`.
"""

from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from comfyline.errors import Cancelled, ComfylineError, Expired, GenerationFailed
from comfyline.job import JobState, Stage
from comfyline.progress import Note, StageEntered, tell
from comfyline.run import Run, Submission
from comfyline.runcomfy.wire import RequestStatus
from comfyline.services import Services, now
from tasks.failure import failing_in_words

_AGAIN = "Run again to ask anew."


@task(
    name=Stage.POLL,
    task_run_name="{submission.checked.job.label} · poll",
    # Where a request stands is never the answer of yesterday.
    cache_policy=NO_CACHE,
    # The client repeats a failed question for as long as the profile's patience lasts.
    retries=0,
)
@failing_in_words
async def poll(submission: Submission, run: Run, services: Services) -> Submission:
    """The same submission, once RunComfy has completed it."""
    label = submission.checked.job.label
    tell(StageEntered(label, label, Stage.POLL))
    logger = get_run_logger()
    request_id, attempt_id = submission.request_id, submission.attempt_id
    age = max(0.0, (now() - submission.submitted_at).total_seconds())
    seen: set[str] = set()

    async def hear(status: RequestStatus) -> None:
        if status.word in seen:
            return
        seen.add(status.word)
        logger.info("request %s: %s", request_id, status.word)
        if status.state is None:
            tell(Note(f"{label}: RunComfy says {status.word!r}, which is not documented"))
        elif status.state in {JobState.IN_QUEUE, JobState.IN_PROGRESS}:
            await services.ledger.observed(attempt_id, status.state)

    try:
        end = await services.poller.wait(
            request_id, age=age, time_left=run.time_left(age), hear=hear
        )
    except Expired as gone:
        await services.ledger.ended(attempt_id, JobState.EXPIRED, gone)
        raise
    if end.state is JobState.COMPLETED:
        await services.ledger.completed(attempt_id, None)
        return replace(submission, state=JobState.COMPLETED)
    reason, cost_usd = await _why(end, submission, services)
    error: Cancelled | GenerationFailed
    if end.state is JobState.CANCELLED:
        state = JobState.CANCELLED
        error = Cancelled("It was cancelled at RunComfy", hint=_AGAIN, request_id=request_id)
    else:
        state = JobState.FAILED
        said = f"RunComfy reports a failure: {reason or 'it gives no reason'}"
        error = GenerationFailed(said, hint=_AGAIN, request_id=request_id)
    await services.ledger.ended(attempt_id, state, error, cost_usd=cost_usd)
    raise error


async def _why(
    end: RequestStatus, submission: Submission, services: Services
) -> tuple[str, float | None]:
    """Why a request ended so, and what it cost: the status seldom says, the result does."""
    try:
        spool = services.work_directory(submission.attempt_id) / "result.json"
        result = await services.client.result(submission.request_id, spool)
    except ComfylineError:
        # The end itself is known; its reason and cost stay unsaid.
        return end.error, None
    return end.error or result.status.error, result.cost_usd
