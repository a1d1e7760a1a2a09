"""Cancel requests at RunComfy: those that still wait in its queue, and no others.

So the honest answer is often no. What goes on there is paid for and stays collectable.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from comfyline.config.account import command
from comfyline.errors import Cancelled, ComfylineError, Interrupted
from comfyline.job import AT_RUNCOMFY, JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.queries import Selection
from comfyline.run import Run, Submission
from comfyline.services import Services

_SECONDS = 20
"""For all requests of a run together: Prefect ends a cancelled worker's process after 30."""
_AT_ONCE = 32
_LATE = "may continue: RunComfy did not answer in time"


@dataclass(frozen=True, slots=True)
class Cancellation:
    """How it ended for one request; `answer` follows its name in a sentence."""

    attempt: Attempt
    is_cancelled: bool
    answer: str


def cancellable(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that RunComfy has and has not ended yet."""
    return [one for one in attempts if one.state in AT_RUNCOMFY and one.request_id]


async def cancel_submission(
    submission: Submission, run: Run, services: Services
) -> Cancelled | Interrupted:
    """Cancel one request because its run was told to stop; return the error that ends its job.

    A `reconcile` run cancels nothing: what it collects was asked for by others. Nor does a process
    whose work another takes up.
    """
    request_id, reason = submission.request_id, run.cancel_token.reason
    answer = "continues at RunComfy"
    if not run.leaves_requests:
        answer = _LATE
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                ended = await _cancel(submission.attempt_id, request_id, reason, services)
                if isinstance(ended, Cancelled):
                    return ended
                answer = ended
    return Interrupted(
        f"The run was stopped, but request {request_id} {answer}",
        hint=f"It is paid for and not lost: {command('reconcile')} or the next run collects it.",
        request_id=request_id,
    )


async def cancel_run(run: Run, services: Services) -> None:
    """Cancel whatever a run still has at RunComfy, for a process that has to leave soon.

    What is not answered in time is left to `reconcile`.
    """
    if not run.leaves_requests:
        left = cancellable(await services.ledger.list(Selection(run_id=run.id)))
        await cancel_all(left, "its run was cancelled", services, seconds=_SECONDS)


async def cancel_all(
    attempts: Sequence[Attempt], reason: str, services: Services, *, seconds: float | None = None
) -> list[Cancellation]:
    """Cancel these requests, many at a time and within `seconds`; say of each how it ended.

    No request's trouble keeps another from being cancelled.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def cancel(attempt: Attempt) -> Cancellation:
        ended: Cancelled | str = _LATE
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), gate:
                ended = await _cancel(attempt.id, attempt.request_id or "", reason, services)
        if isinstance(ended, Cancelled):
            return Cancellation(attempt, is_cancelled=True, answer="is cancelled")
        return Cancellation(attempt, is_cancelled=False, answer=ended)

    return await asyncio.gather(*map(cancel, attempts))


async def _cancel(
    attempt_id: int, request_id: str, reason: str, services: Services
) -> Cancelled | str:
    """Cancel one request; return the error that ends its job, or else what follows its name."""
    try:
        answer = await services.client.cancel(request_id)
        if answer != "cancelled":
            return f"is {answer.replace('_', ' ')}"
        ended = Cancelled(
            f"Cancelled at RunComfy: {reason or 'the run was stopped'}",
            hint="Run again to submit a new request.",
            request_id=request_id,
        )
        await services.ledger.ended(attempt_id, JobState.CANCELLED, ended)
    except ComfylineError as error:
        return f"may continue: {error.message}"
    return ended
