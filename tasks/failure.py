"""How a stage fails: as a Failed state with one sentence, not with a stack trace.

An error that is meant for a person is returned as a state, so that neither the Prefect UI nor the
log file shows a traceback for it. Everything else is a defect and is raised.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed

from comfyline.errors import ComfylineError, Expired, Interrupted, NotKnownNow, TryLater
from comfyline.run import Submission
from comfyline.services import Services

P = ParamSpec("P")
R = TypeVar("R")


def failing_in_words(
    stage: Callable[P, Awaitable[R]],
) -> Callable[P, Awaitable[R | State[ComfylineError]]]:
    """Makes a stage return a Failed state for every `ComfylineError`."""

    @wraps(stage)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R | State[ComfylineError]:
        try:
            return await stage(*args, **kwargs)
        except ComfylineError as error:
            # What goes on at RunComfy has not failed, and Prefect has no other type for it.
            goes_on = isinstance(error, TryLater | Interrupted)
            name = "Unfinished" if goes_on else "Failed"
            return Failed(name=name, message=str(error), data=error)

    return run


async def not_known(
    unknown: NotKnownNow, submission: Submission, services: Services
) -> NotKnownNow | Expired:
    """Writes down that RunComfy does not know a request. Returns what that means for its job."""
    attempt_id, when = submission.attempt_id, submission.submitted_at
    if not await services.ledger.missing(attempt_id, when, unknown):
        return unknown
    return Expired(
        f"RunComfy no longer knows request {submission.request_id}, which was paid for",
        hint="Its 7 days are over, and it was not known hours ago either: its result is lost. "
        "`--refresh` makes it again, and pays again.",
        request_id=submission.request_id,
    )


async def unwrap(result: R | State[ComfylineError]) -> R:
    """The value of a stage; raises the error that its Failed state carries."""
    if not isinstance(result, State):
        return result
    error = await result.aresult(raise_on_failure=False)
    raise error if isinstance(error, Exception) else RuntimeError(result.message)


async def is_passing(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001  # Prefect's signature
    """Whether the same stage may succeed if it is simply run again.

    For stages whose repetition costs nothing: a server that was away, a file that arrived broken.
    """
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, ComfylineError) and error.passing
