"""Prefect in a process of the command line: which server, which log file, imported late.

Prefect reads its environment when it is imported, and the import alone takes a second: so the
commands that need no flow never come here.
"""

import atexit
import logging
import os
import sys
from collections.abc import Awaitable
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

from comfyline.cli.console import print_line
from comfyline.config.account import command
from comfyline.config.load import home, start_services
from comfyline.errors import ComfylineError, Defect, Unreachable
from comfyline.report.summary import RunSummary
from comfyline.stack.home import private_folder
from comfyline.stack.services import ServiceName
from comfyline.stack.stack import StackAddresses, addresses
from comfyline.storage.connection_errors import what_broke

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_LINE = "%(asctime)s | %(process)d | %(levelname)-7s | {} | %(message)s"

_PREFECT_IS_AWAY = "Failed to reach API"
"""How Prefect's client says, in a plain RuntimeError, that its server does not answer."""


class PrefectIsGone(Unreachable):
    """The Prefect server went away in the middle of a run."""


async def connect(needed: tuple[ServiceName, ...]) -> None:
    """Start what is needed and point Prefect at its server: PREFECT_API_URL, else the local one.

    Must be called before anything imports Prefect. Raises `Unreachable` for a server that does not
    answer.
    """
    own = "PREFECT_API_URL" not in os.environ
    # Prefect's inner workings print by a handler of their own, whole events at a time.
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    started: tuple[ServiceName, ...] = ("prefect", *needed) if own else needed
    found = await start_services(started, print_line)
    if own and found.prefect_api_url:
        os.environ["PREFECT_API_URL"] = found.prefect_api_url
        os.environ["PREFECT_API_AUTH_STRING"] = found.prefect_auth_string or ""
        os.environ["PREFECT_HOME"] = str(home() / "prefect-client")
        os.environ["DO_NOT_TRACK"] = "1"
        # The pictures matter more than their page: with the default a run whose server is gone
        # waits for minutes at its end.
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")
    else:
        await _must_answer(os.environ["PREFECT_API_URL"])
        _use_own_password(addresses(home()))
    _log_to_file(home() / "logs" / "comfyline.log")
    await _must_let_us_in(own=own)


async def summary_of(flow: Awaitable["State[Any]"]) -> RunSummary:
    """Run a flow in this process and return its summary.

    Raises the `ComfylineError` with which the flow ended before it had any jobs, and
    `PrefectIsGone`, which says nothing about the jobs.
    """
    try:
        state = await flow
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _PREFECT_IS_AWAY not in str(error):
            raise
        raise PrefectIsGone(
            f"The Prefect server stopped answering: {what_broke(error)}",
            hint="What was paid for is in the ledger: start the server with `comfyline up`, then "
            f"run again or {command('reconcile')}.",
        ) from error
    result = await state.aresult(raise_on_failure=False)
    if isinstance(result, RunSummary):
        return result
    if isinstance(result, ComfylineError):
        raise result
    raise Defect(result if isinstance(result, Exception) else RuntimeError(state.message))


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for Prefect, whose server is gone.

    At exit its client would try to deliver each event for seconds, minutes in all, in vain.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def page(run_id: str) -> str | None:
    """Return the flow run's page in the Prefect UI, where its address is known."""
    from prefect.settings import PREFECT_UI_URL

    base = PREFECT_UI_URL.value()
    return f"{base}/runs/flow-run/{run_id}" if base else None


def page_password() -> str | None:
    """Return what the page of the local Prefect server asks for; None for another's server."""
    found = addresses(home())
    is_ours = found.prefect_api_url == os.environ.get("PREFECT_API_URL")
    return found.prefect_auth_string if is_ours else None


async def _must_answer(api_url: str) -> None:
    """Say at once what Prefect would say with a stack trace, after minutes of trying."""
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            await http.get(f"{api_url.rstrip('/')}/health")
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unreachable(
            f"The Prefect server at {api_url} does not answer: {what_broke(error)}",
            hint="Start it, or unset PREFECT_API_URL to use the local one.",
        ) from error


def _use_own_password(local: StackAddresses) -> None:
    """For a PREFECT_API_URL that names the local server, from a shell older than its password."""
    named, ours = os.environ["PREFECT_API_URL"].rstrip("/"), local.prefect_api_url
    if named == ours and local.prefect_auth_string:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", local.prefect_auth_string)


async def _must_let_us_in(*, own: bool) -> None:
    """Say at once what Prefect would say with a stack trace for a password that it lacks."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        async with get_client() as prefect:
            await prefect.api_version()
    except httpx.TransportError:
        return  # It is busy, perhaps; the flow itself asks more patiently.
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return
        raise Unreachable(
            f"The Prefect server at {os.environ['PREFECT_API_URL']} rejects the "
            f"credentials ({error.response.status_code})",
            hint="It was started with another password: `comfyline down`, then run again."
            if own
            else "Set PREFECT_API_AUTH_STRING to the user:password that it asks for, or "
            'PREFECT_API_KEY. For the local server: eval "$(comfyline env)".',
        ) from error


def _log_to_file(path: Path) -> None:
    """Send Prefect's lines to its UI and this file; a root handler keeps them off stderr.

    The handler has to be there before Prefect is imported, or Prefect adds one that prints.
    """
    private_folder(path.parent)
    path.touch(mode=0o600)
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
    # A log handler that fails prints; Prefect's own does so for each line that it cannot deliver.
    logging.raiseExceptions = False
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # At INFO these write whole URLs, with every signature in them.
    for chatty in ("httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
