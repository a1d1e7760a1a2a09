"""submit: the one POST that costs money, at most once.

The order is the guarantee: the intent is committed to the ledger, then the POST leaves, then the
request id is written down, before anything else happens. A process that dies in between leaves a
lease that ends in `in_doubt`, never in a second POST.

Prefect must not repeat this task, whatever happens: `retries=0`, no cache. What may be repeated
(the POST never left, RunComfy asked to wait) is decided by `verdict` and repeated here, each time
under a claim of its own.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from comfyline.errors import ComfylineError, TryLater, Unreachable
from comfyline.job import CheckedJob, JobState, Stage
from comfyline.keys import replace_values
from comfyline.ledger.decision import Decision
from comfyline.ledger.ledger import Claimed, Limits, NoMoney, NoSlot, NotOurs
from comfyline.ledger.records import Attempt
from comfyline.ledger.refusals import blocked, in_doubt, over_budget
from comfyline.progress import StageEntered, tell
from comfyline.run import Run, Submission, UploadedInputs
from comfyline.runcomfy.outage import backoff
from comfyline.runcomfy.verdict import Accepted, No, NotSent, SlowDown, Unknown
from comfyline.services import Services
from tasks.failure import failing_in_words

T = TypeVar("T")

_LOOK_AGAIN = 0.5
"""Seconds between two looks at a job that another process is submitting, or for a free slot."""


@task(
    name=Stage.SUBMIT,
    task_run_name="{checked.job.label} · submit",
    cache_policy=NO_CACHE,
    retries=0,
)
@failing_in_words
async def submit(
    checked: CheckedJob, uploaded: UploadedInputs, run: Run, services: Services
) -> Submission:
    """The job at RunComfy: submitted now, or found there because somebody else has done it.

    Raises `Refused`, `TokenRejected`, `OverBudget`, `InDoubt`, `Unreachable` or `TryLater`.
    """
    tell(StageEntered(checked.job.label, checked.job.label, Stage.SUBMIT))
    limits = Limits(services.settings.runcomfy.in_flight, run.timeout, run.max_cost_usd)
    clock = asyncio.get_running_loop().time
    give_up: float | None = None
    tries = 0
    while True:
        body = await _body(checked, uploaded, services)
        await services.submits.acquire()
        # Nothing may wait between the claim and the POST: the claim's lease runs out.
        claim = await services.ledger.claim(
            checked, run_id=run.id, refresh=run.refresh, limits=limits
        )
        match claim:
            case NotOurs(Decision.RESUME | Decision.REUSE, attempt):
                return resume(attempt, checked)
            case NotOurs(Decision.BLOCKED, attempt):
                raise blocked(attempt)
            case NotOurs() | NoSlot():
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            case NoMoney(reserved):
                raise over_budget(checked, run.max_cost_usd, reserved)
            case Claimed(attempt_id, number):
                sending = _send(checked, body, attempt_id, number, run, services)
                sent = await _uninterrupted(sending)
        if isinstance(sent, Submission):
            return sent
        give_up = give_up or clock() + services.settings.runcomfy.patience
        wait = sent.retry_after if isinstance(sent, SlowDown) else None
        wait = backoff(tries, wait)
        if clock() + wait > give_up:
            raise _given_up(sent)
        await asyncio.sleep(wait)
        tries += 1


async def _body(
    checked: CheckedJob, uploaded: UploadedInputs, services: Services
) -> Mapping[str, Any]:
    """The request's body. Its presigned URLs are secrets and leave this module only by the POST."""
    urls = {
        media.pointer: await services.uploads.presign(uri)
        for media, uri in zip(checked.media, uploaded.uris, strict=True)
    }
    return replace_values(checked.job.inputs, urls)


async def _send(
    checked: CheckedJob,
    body: Mapping[str, Any],
    attempt_id: int,
    number: int,
    run: Run,
    services: Services,
) -> Submission | NotSent | SlowDown:
    """POSTs under a claim and writes down what is known of it, whatever that is."""
    verdict = await services.client.submit(checked.job.model_id, body)
    run.submitted += not isinstance(verdict, NotSent)
    match verdict:
        case Accepted(request_id):
            when = await services.ledger.accepted(attempt_id, request_id)
            get_run_logger().info("request %s: submitted", request_id)
            return Submission(checked, attempt_id, number, JobState.SUBMITTED, request_id, when)
        case Unknown(reason):
            doubt = in_doubt(checked.key, reason)
            await services.ledger.ended(attempt_id, JobState.IN_DOUBT, doubt)
            raise doubt
        case No(error):
            await services.ledger.ended(attempt_id, JobState.FAILED, error)
            raise error
        case NotSent() | SlowDown():
            await services.ledger.not_sent(attempt_id)
            return verdict


async def _uninterrupted(sending: Coroutine[Any, Any, T]) -> T:
    """Lets a POST under way end and be written down although the run is being cancelled.

    A second cancellation leaves at once; then the lease ends in `in_doubt`.
    """
    task = asyncio.ensure_future(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def resume(attempt: Attempt, checked: CheckedJob) -> Submission:
    """An attempt that was paid for before, to be finished under this job's own names."""
    if attempt.request_id is None or attempt.submitted_at is None:
        raise AssertionError(f"attempt {attempt.id} is {attempt.state} without a request id")
    return Submission(
        checked=checked,
        attempt_id=attempt.id,
        attempt=attempt.number,
        state=attempt.state,
        request_id=attempt.request_id,
        submitted_at=attempt.submitted_at,
        copies=attempt.outputs,
    )


def _given_up(verdict: NotSent | SlowDown) -> ComfylineError:
    hint = "Nothing was charged: run again later."
    if isinstance(verdict, SlowDown):
        return TryLater("RunComfy keeps asking to slow down (HTTP 429)", hint=hint)
    return Unreachable(f"RunComfy cannot be reached: {verdict.reason}", hint=hint)
