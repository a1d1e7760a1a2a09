"""Prefect in a process of the command line: which server, which log file, imported late.

Prefect reads its environment when it is imported, and the import alone takes a second: so the
commands that need no flow never come here.
"""

import atexit
import logging
import os
from collections.abc import Awaitable, Callable
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from comfyline.cli.speech import say
from comfyline.environment import home, start_services
from comfyline.errors import ComfylineError, Defect
from comfyline.report.summary import RunSummary
from comfyline.stack.services import ServiceName

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_LINE = "%(asctime)s | %(process)d | %(levelname)-7s | {} | %(message)s"

Flow = Callable[[], Awaitable["State[Any]"]]


async def connect(needed: tuple[ServiceName, ...]) -> None:
    """Starts what is needed and points Prefect at its server: PREFECT_API_URL, else the local one.

    Must be called before anything imports Prefect.
    """
    own = "PREFECT_API_URL" not in os.environ
    started: tuple[ServiceName, ...] = ("prefect", *needed) if own else needed
    found = await start_services(started, say)
    if own and found.prefect_api_url:
        os.environ["PREFECT_API_URL"] = found.prefect_api_url
        os.environ["PREFECT_HOME"] = str(home() / "prefect-client")
        os.environ["DO_NOT_TRACK"] = "1"
    _log_to_file(home() / "logs" / "comfyline.log")


async def run_flow(flow: Flow) -> RunSummary:
    """Runs a flow in this process and returns its summary.

    Raises the `ComfylineError` with which the flow ended before it had any jobs.
    """
    state = await flow()
    result = await state.aresult(raise_on_failure=False)
    if isinstance(result, RunSummary):
        return result
    if isinstance(result, ComfylineError):
        raise result
    raise Defect(result if isinstance(result, Exception) else RuntimeError(state.message))


def page(run_id: str) -> str | None:
    """The flow run's page in the Prefect UI, where its address is known."""
    from prefect.settings import PREFECT_UI_URL

    base = PREFECT_UI_URL.value()
    return f"{base}/runs/flow-run/{run_id}" if base else None


def _log_to_file(path: Path) -> None:
    """Prefect's lines go to its UI and this file; a handler at the root keeps them off stderr.

    The handler has to be there before Prefect is imported, or Prefect adds one that prints.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is written by a thread of its own: a slow disk must not hold the event loop.
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(lines)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    from prefect.logging.formatters import PrefectFormatter

    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(
        PrefectFormatter(
            _LINE.format("%(name)s"),
            flow_run_fmt=_LINE.format("%(flow_run_name)s"),
            task_run_fmt=_LINE.format("%(task_run_name)s"),
        )
    )
    listener = QueueListener(lines, file)
    listener.start()
    atexit.register(listener.stop)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # At INFO these write whole URLs, with every signature in them.
    for chatty in ("httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
