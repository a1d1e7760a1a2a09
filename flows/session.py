"""What every flow does around its work: settings, services, secrets, cancellation, errors in words.

A worker asks its flow's process to end, by SIGTERM. A flow that runs in a process of its own is
told nothing by Prefect, so it looks at its own state.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import date
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from comfyline.config.load import logs_are_json, prepare
from comfyline.config.settings import Settings
from comfyline.errors import ComfylineError, Defect, UsageError
from comfyline.progress import Event, Note, Observer, RunEnded, observed_by, tell
from comfyline.redact import without_secrets
from comfyline.report.summary import RunSummary
from comfyline.run import CancelToken, cancelled_by, current_token
from comfyline.services import Services, day_of, now, open_services
from comfyline.telemetry.export import telemetry
from comfyline.telemetry.logs import log_as_json
from comfyline.telemetry.spans import Fields, span
from flows.events import RunEvents, run_ended

Work = Callable[[Services], Awaitable[State[RunSummary]]]

_LOOK_AGAIN = 3.0
"""Seconds between two looks."""
_LOOK_AT_MOST = 8.0
"""Seconds that a look may take: a process that is told to end is killed 30 seconds later."""
_TOLD_TO_END = "its process was told to end"


if logs_are_json():
    # Before the flow begins, so that what Prefect says of it is JSON too.
    log_as_json(PrefectConsoleHandler)


async def with_services(
    profile: str, work: Work, *, unchecked: bool = False
) -> State[RunSummary] | State[ComfylineError]:
    """Do a flow's work with everything open; an error for a person becomes a Failed state.

    With `unchecked`, a model whose schema is nowhere to be had is taken without one.
    """
    with observed_by(_log_notes()), observed_by(RunEvents(run_id(), is_shard=is_shard())):
        try:
            settings = await prepare(profile, lambda text: tell(Note(text)), read_secret_block)
            async with telemetry(settings.telemetry, str(flow_run.id)):
                with span("run", _about_run()) as add:
                    state = await _worked(settings, work, unchecked=unchecked)
                    ended = run_ended(state)
                    add({"comfyline.state": ended.state})
                _tell(ended)
                return state
        except ComfylineError as error:
            failed = _failed(error)
            _tell(run_ended(failed))
            return failed
        except asyncio.CancelledError:
            _tell(RunEnded("cancelled", _TOLD_TO_END))
            raise
        except Exception as error:
            _tell(RunEnded("failed", without_secrets(str(Defect(error)))))
            raise


def _tell(ended: RunEnded) -> None:
    # A part of a run that has ended is no run that has ended.
    if not is_shard():
        tell(ended)


async def _worked(
    settings: Settings, work: Work, *, unchecked: bool
) -> State[RunSummary] | State[ComfylineError]:
    token = current_token()
    try:
        async with (
            open_services(settings, unchecked=unchecked) as services,
            watch_for_cancellation(token, run_id(), str(flow_run.id), services),
        ):
            with cancelled_by(token):
                state = await work(services)
            if state.is_completed() and not is_shard():
                # It only spares an alarm: no run fails because of it.
                with suppress(ComfylineError):
                    await services.ledger.run_completed(run_id())
            return state
    except ComfylineError as error:
        return _failed(error)


def _failed(error: ComfylineError) -> State[ComfylineError]:
    return Failed(message=without_secrets(str(error)), data=error)


def _about_run() -> Fields:
    return {"comfyline.run_id": run_id(), "prefect.flow_run.id": str(flow_run.id)}


def run_id() -> str:
    """Return the id of this execution: the flow run's, also when it is retried.

    So what an earlier try has spent counts against the budget, a refresh does not pay again for
    what an earlier try has made, and `cancel --run` takes the id that the page shows. A shard's is
    that of the run which it is a part of.
    """
    return str(flow_run.parameters.get("of_run") or flow_run.id)


def is_shard() -> bool:
    """Return whether this flow run is a part of another."""
    return flow_run.parameters.get("of_run") is not None


def run_date() -> date:
    """Return the day here on which this run first began: one that is retried tomorrow keeps it."""
    context = FlowRunContext.get()
    first = context.flow_run.start_time if context and context.flow_run else None
    return day_of(first or now())


def _log_notes() -> Observer:
    """Return an observer that repeats in the flow run's log what is worth a line."""
    logger = get_run_logger()

    def log(event: Event) -> None:
        if isinstance(event, Note):
            logger.info("%s", without_secrets(event.text))

    return log


@asynccontextmanager
async def watch_for_cancellation(
    token: CancelToken, run_id: str, flow_run_id: str, services: Services
) -> AsyncIterator[None]:
    """Cancel `token` when the flow run or the ledger's run is told to stop, in the block."""
    told_to_end = asyncio.Event()
    token.may_hand_over = is_shard()

    def end() -> None:
        # Where others could go on, it is first found out whether the whole run has to end.
        if token.may_hand_over:
            told_to_end.set()
        else:
            token.cancel(_TOLD_TO_END)

    watching = asyncio.create_task(_watch(token, told_to_end, run_id, flow_run_id, services))
    try:
        with _on_signal(end):
            yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


@contextmanager
def _on_signal(act: Callable[[], None]) -> Iterator[None]:
    """Replace Prefect's handler, which raises in whatever task happens to run at the moment.

    A terminal that goes away is heard likewise, where nobody has arranged for something else.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signal.SIGTERM]
    if is_shard():
        # Ctrl-C in its worker's terminal: the other shards of the run go on all the same.
        heard.append(signal.SIGINT)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        heard.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in heard}
    for number in heard:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _watch(
    token: CancelToken,
    told_to_end: asyncio.Event,
    run_id: str,
    flow_run_id: str,
    services: Services,
) -> None:
    # What an earlier try was told holds until this one has opened the run, which may take a while.
    is_old: bool | None = False if is_shard() else None

    async def ask_ledger() -> None:
        nonlocal is_old
        with suppress(ComfylineError):
            is_stopped = await services.ledger.is_stopped(run_id)
            is_old = is_stopped and is_old is not False
            if is_stopped and not is_old:
                token.cancel("it was cancelled with `comfyline cancel --run`")

    async with get_client() as prefect:
        await _within(_LOOK_AT_MOST, ask_ledger())
        is_old = bool(is_old)
        while not token.is_cancelled:
            await _within(_LOOK_AGAIN, told_to_end.wait())
            # While one of them is away, the other is heard all the same.
            asking = asyncio.gather(ask_ledger(), _ask_prefect(token, flow_run_id, prefect))
            await _within(_LOOK_AT_MOST, asking)
            if told_to_end.is_set():
                token.hands_over = not token.is_cancelled
                token.cancel(_TOLD_TO_END)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work, seconds)


async def _ask_prefect(token: CancelToken, flow_run_id: str, prefect: PrefectClient) -> None:
    # A server that is away for a while tells nothing, and the run goes on.
    with suppress(httpx.HTTPError, PrefectException, RuntimeError):
        state = (await prefect.read_flow_run(UUID(flow_run_id))).state
        if state and state.type in {StateType.CANCELLING, StateType.CANCELLED}:
            token.cancel("it was cancelled in Prefect")


async def read_secret_block(name: str) -> str:
    """Read what a Secret block holds, as it was typed.

    The server is asked for it anew each time; it is in no log and in no result. Raises `UsageError`
    when there is none, or when the server would tell it to anybody.
    """
    await _refuse_open_server(name)
    try:
        block: Secret[Any] = await Secret.aload(name)
    except ValueError:
        raise UsageError(
            f"There is no Prefect Secret block `{name}` at this Prefect server",
            hint="Create it on the page Blocks, with the type Secret, or in Python with "
            f'Secret(value="…").save("{name}").',
        ) from None
    held = block.value.get_secret_value()
    if not isinstance(held, str):
        raise UsageError(
            f"The Prefect Secret block `{name}` contains no text",
            hint="Store the secret itself in it, not JSON.",
        )
    return held


async def _refuse_open_server(name: str) -> None:
    """Ask for blocks as a stranger does, without credentials: who is answered could read all."""
    api_url = str(PREFECT_API_URL.value()).rstrip("/")
    try:
        # Nothing secret is sent or told, so that nobody's certificate needs to be known.
        async with httpx.AsyncClient(verify=False, timeout=30) as stranger:  # noqa: S501
            answer = await stranger.post(f"{api_url}/block_documents/filter", json={"limit": 1})
    except httpx.HTTPError:
        return  # Prefect's own client says so better.
    if answer.is_success:
        raise UsageError(
            f"The Prefect server at {api_url} asks for no password: whoever reaches it could "
            f"read the Secret block `{name}`, so it is not read",
            hint="Start it with PREFECT_SERVER_API_AUTH_STRING=user:password, set "
            "PREFECT_API_AUTH_STRING to the same here and for its workers, and change the secret; "
            "or name a variable in the profile instead of a block.",
        )
