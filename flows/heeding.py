"""How a run hears that it was told to stop from elsewhere: the Prefect UI, another machine.

A worker asks its flow's process to end, by SIGTERM. A flow that runs in a process of its own is
told nothing by Prefect, so it looks at its own state.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

from comfyline.errors import ComfylineError
from comfyline.run import CancelToken
from comfyline.services import Services

_LOOK_AGAIN = 3.0
"""Seconds between two looks."""


@asynccontextmanager
async def heeding(
    token: CancelToken, flow_run_id: UUID, run_id: str, services: Services
) -> AsyncIterator[None]:
    """Cancel `token` when the flow run or the ledger's run is told to stop, in the block."""
    looking = asyncio.create_task(_look(token, flow_run_id, run_id, services))
    try:
        with _signals_pull(token):
            yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


@contextmanager
def _signals_pull(token: CancelToken) -> Iterator[None]:
    """Instead of Prefect's handler, which raises in whatever task happens to run at the moment.

    A terminal that goes away is heeded likewise, where nobody has arranged for something else.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        heard.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in heard}
    for number in heard:
        loop.add_signal_handler(number, token.cancel, "its process was told to end")
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _look(token: CancelToken, flow_run_id: UUID, run_id: str, services: Services) -> None:
    async with get_client() as prefect:
        while not token.is_cancelled:
            await asyncio.sleep(_LOOK_AGAIN)
            with suppress(ComfylineError):
                if await services.ledger.is_stopped(run_id):
                    token.cancel("it was cancelled with `comfyline cancel --run`")
            # A server that is away for a while tells nothing, and the run goes on.
            with suppress(httpx.HTTPError, PrefectException, RuntimeError):
                state = (await prefect.read_flow_run(flow_run_id)).state
                if state and state.type in {StateType.CANCELLING, StateType.CANCELLED}:
                    token.cancel("it was cancelled in Prefect")
