"""Taking requests back: what is queued is cancelled, what is not stays collectable, each said so.

RunComfy cancels what still waits and nothing else, so the honest answer is often no.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from comfyline.config.account import command
from comfyline.errors import Cancelled, ComfylineError, Interrupted
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.queries import Selection
from comfyline.run import Run, Submission
from comfyline.services import Services

AT_RUNCOMFY = frozenset({JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS})
_SECONDS = 20
"""For all withdrawals together: Prefect ends a cancelled worker's process after 30."""
_AT_ONCE = 32


async def withdraw(submission: Submission, run: Run, services: Services) -> ComfylineError:
    """Take one request back because its run was told to stop. Return how that ended.

    A `reconcile` run withdraws nothing: what it collects was asked for by others.
    """
    request_id = submission.request_id
    if run.collects_only:
        return _goes_on(request_id, "it was not waited for any longer")
    try:
        async with asyncio.timeout(_SECONDS):
            outcome = await services.client.cancel(request_id)
    except (ComfylineError, TimeoutError):
        return _goes_on(request_id, "RunComfy did not say whether it can be cancelled")
    return await _settled(
        submission.attempt_id, request_id, outcome, run.cancel_token.reason, services
    )


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """How it ended for one request that was to be taken back; `words` follow its name."""

    attempt: Attempt
    is_cancelled: bool
    words: str


async def withdraw_all(run: Run, services: Services) -> int:
    """Take back whatever a run still has at RunComfy; return how many requests go on all the same.

    For a process that has to leave soon: what is not settled in time is left to `reconcile`.
    """
    if run.collects_only:
        return 0
    left = withdrawable(await services.ledger.list(Selection(run_id=run.id)))
    taken = await take_back(left, "its run was cancelled", services, seconds=_SECONDS)
    return sum(not one.is_cancelled for one in taken)


def withdrawable(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that RunComfy has and has not ended yet."""
    return [one for one in attempts if one.state in AT_RUNCOMFY and one.request_id]


async def take_back(
    attempts: Sequence[Attempt], reason: str, services: Services, *, seconds: float | None = None
) -> list[Withdrawn]:
    """Take these requests back, many at a time and within `seconds`; say of each how it ended.

    No request's trouble keeps another from being cancelled.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(attempt: Attempt) -> Withdrawn:
        async with gate:
            try:
                return await _taken_back(attempt, reason, services)
            except ComfylineError as error:
                return Withdrawn(attempt, False, f"goes on, perhaps: {error.message}")  # noqa: FBT003

    tasks = [asyncio.create_task(one(attempt)) for attempt in attempts]
    if not tasks:
        return []
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    unheard = "goes on, perhaps: RunComfy did not say in time"
    return [
        task.result() if task in done else Withdrawn(attempt, False, unheard)  # noqa: FBT003
        for attempt, task in zip(attempts, tasks, strict=True)
    ]


async def _taken_back(attempt: Attempt, reason: str, services: Services) -> Withdrawn:
    request_id = attempt.request_id or ""
    outcome = await services.client.cancel(request_id)
    ended = await _settled(attempt.id, request_id, outcome, reason, services)
    word = outcome.replace("_", " ")
    return Withdrawn(attempt, isinstance(ended, Cancelled), f"is {word}")


async def _settled(
    attempt_id: int, request_id: str, outcome: str, reason: str, services: Services
) -> ComfylineError:
    if outcome != "cancelled":
        return _goes_on(request_id, f"RunComfy calls it {outcome.replace('_', ' ')}")
    error = Cancelled(
        f"It was cancelled at RunComfy: {reason or 'the run was told to stop'}",
        hint="Run again to ask anew.",
        request_id=request_id,
    )
    await services.ledger.ended(attempt_id, JobState.CANCELLED, error)
    return error


def _goes_on(request_id: str, why: str) -> Interrupted:
    return Interrupted(
        f"The run was stopped, and request {request_id} goes on at RunComfy: {why}",
        hint=f"It is paid for and not lost: {command('reconcile')} or the next run collects it.",
        request_id=request_id,
    )
