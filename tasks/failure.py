"""How a stage fails: in a state that says what it was, with one sentence and no stack trace.

An error that is meant for a person is returned as a state, so that neither the Prefect UI nor the
log file shows a traceback for it. Everything else is a defect and is raised.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect import states as prefect_states
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.transactions import get_transaction

from comfyline.errors import (
    BrokenOutput,
    Cancelled,
    ComfylineError,
    Expired,
    InDoubt,
    Interrupted,
    NotKnownNow,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.job import JobState
from comfyline.redact import without_secrets
from comfyline.run import Submission
from comfyline.services import Services
from comfyline.telemetry.spans import Fields, span

P = ParamSpec("P")
R = TypeVar("R")


def failing_in_words(
    stage: Callable[P, Awaitable[R]],
) -> Callable[P, Awaitable[R | State[ComfylineError]]]:
    """Make a stage return a state for every `ComfylineError`; no such end is remembered."""

    @wraps(stage)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R | State[ComfylineError]:
        try:
            with span(stage.__name__.replace("_", "-"), _about(args, kwargs.values())):
                return await stage(*args, **kwargs)
        except ComfylineError as error:
            _remember_nothing()
            return end_state(error)

    return run


def _about(*arguments: Iterable[object]) -> Fields:
    """Return what traces and log lines of a stage tell beside its job."""
    context = TaskRunContext.get()
    requests = (one.request_id for one in chain(*arguments) if isinstance(one, Submission))
    return {
        "comfyline.stage": context.task.name if context else None,
        "comfyline.request_id": next(requests, None),
        "prefect.task_run.id": str(context.task_run.id) if context else None,
    }


def job_state_after(error: ComfylineError) -> JobState:
    """Return the state in which an error leaves its job; `planned` for neither made nor failed."""
    match error:
        case Cancelled():
            return JobState.CANCELLED
        case InDoubt():
            return JobState.IN_DOUBT
        case Expired():
            return JobState.EXPIRED
        case TryLater() | Unreachable() | BrokenOutput() | Interrupted():
            return JobState.SUBMITTED if error.request_id else JobState.PLANNED
        case TokenRejected() if error.request_id:
            # It goes on at RunComfy, and is collected with the next token.
            return JobState.SUBMITTED
        case _:
            return JobState.FAILED


def end_state(error: ComfylineError) -> State[ComfylineError]:
    """Return the Prefect state for an error: what it was, and its sentence with the request id.

    Prefect has no type of its own for what waits for a person, nor for what goes on at RunComfy:
    those are of the type Failed, for nothing came of the stage, and have names of their own.
    """
    message = without_secrets(str(error))
    if error.request_id and error.request_id not in message:
        message = f"Request {error.request_id}: {message}"
    match job_state_after(error):
        case JobState.CANCELLED:
            return prefect_states.Cancelled(message=message, data=error)
        case JobState.IN_DOUBT:
            name = "InDoubt"
        case JobState.SUBMITTED | JobState.PLANNED:
            name = "Unfinished"
        case _:
            name = "Failed"
    return prefect_states.Failed(name=name, message=message, data=error)


class _SaidOnce(logging.Filter):
    """Drops what Prefect logs of a task's end, which the page shows: that it is completed.

    And of a failure what it logs beside `Finished in state`: the error as Python has it, with all
    addresses in it, above an empty stack trace.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        said = ("Finished in state Completed", "Task run failed with state")
        return not str(record.msg).startswith(said)


logging.getLogger("prefect.task_runs").addFilter(_SaidOnce())


def _remember_nothing() -> None:
    """Keep Prefect from storing this end of a stage under its cache key.

    It stores whatever a stage returns, a failure too. One that cannot be written down it shows as
    Completed and rolled back; and of a try that is to be repeated it stores that nothing came.
    """
    if transaction := get_transaction():
        transaction.write_on_commit = False


async def not_known(
    unknown: NotKnownNow, submission: Submission, services: Services
) -> NotKnownNow | Expired:
    """Write down that RunComfy does not know a request. Return what that means for its job."""
    attempt_id, when = submission.attempt_id, submission.submitted_at
    if not await services.ledger.missing(attempt_id, when, unknown):
        return unknown
    return Expired(
        f"RunComfy no longer knows request {submission.request_id}, which was paid for",
        hint="Its 7 days are over, and it was unknown hours ago already: its result is lost. "
        "`--refresh` makes it again, and pays again.",
        request_id=submission.request_id,
    )


async def unwrap(result: R | State[ComfylineError]) -> R:
    """Return the value of a stage; raise the error that its end state carries."""
    if not isinstance(result, State):
        return result
    error = await result.aresult(raise_on_failure=False)
    raise error if isinstance(error, Exception) else RuntimeError(result.message)


async def is_passing(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001  # Prefect's signature
    """Tell whether the same stage may succeed if it is simply run again.

    For stages whose repetition costs nothing: a server that was away, a file that arrived broken.
    """
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, ComfylineError) and error.passing
