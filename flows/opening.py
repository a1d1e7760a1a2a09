"""What every flow does around its work: settings, services, the run's id, errors in words."""

from collections.abc import Awaitable, Callable

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Failed

from comfyline.config.environment import prepare
from comfyline.errors import ComfylineError
from comfyline.progress import Note, tell
from comfyline.redact import without_secrets
from comfyline.report.summary import RunSummary
from comfyline.run import cancelled_by, current_token
from comfyline.services import Services, open_services
from flows.heeding import heeding
from flows.secret_blocks import read_secret_block

Work = Callable[[Services], Awaitable[State[RunSummary]]]


async def with_services(
    profile: str, work: Work, *, unchecked: bool = False
) -> State[RunSummary] | State[ComfylineError]:
    """Does a flow's work with everything open; an error for a person becomes a Failed state.

    With `unchecked`, a model whose schema is nowhere to be had is taken without one.
    """
    try:
        settings = await prepare(profile, _say, read_secret_block)
        token = current_token()
        async with open_services(settings, unchecked=unchecked) as services:
            with cancelled_by(token):
                async with heeding(token, _flow_run().id, run_id(), services):
                    return await work(services)
    except ComfylineError as error:
        return Failed(message=without_secrets(str(error)), data=error)


def run_id() -> str:
    """The id of this execution: the flow run's, also when it is retried.

    So what an earlier try has spent counts against the budget, a refresh does not pay again for
    what an earlier try has made, and `cancel --run` takes the id that the page shows.
    """
    return str(_flow_run().id)


def _flow_run() -> FlowRun:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("only a flow run has a run id")
    return context.flow_run


def _say(text: str) -> None:
    get_run_logger().info(text)
    tell(Note(text))
