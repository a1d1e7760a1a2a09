"""metrics: the ledger's numbers as a page for Prometheus, in the foreground."""

import asyncio
import signal
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_line
from comfyline.cli.options import Profile
from comfyline.cli.selection import reading_ledger
from comfyline.config.load import read_profile
from comfyline.errors import ComfylineError, UsageError
from comfyline.files import this_process
from comfyline.ledger.standing import Standing
from comfyline.stack.ports import check_free, is_port
from comfyline.telemetry.export import start
from comfyline.telemetry.metrics import LedgerMetrics, Values

_BETWEEN_LOOKS = 15.0
"""Seconds; scrapes in between show what was read last."""


async def metrics(
    *,
    profile: Profile = "sandbox",
    port: Annotated[int, Parameter(help="Port of the page.")] = 9464,
    host: Annotated[str, Parameter(help="Address of the page.")] = "127.0.0.1",
) -> int:
    """Serve the ledger's numbers as a page for Prometheus, until Ctrl-C.

    Jobs that are not finished, in doubt, the oldest paid and unstored result, jobs and cost of the
    day, the last completed run of each pipeline. Example: comfyline metrics --profile production
    """
    if not is_port(port):
        raise UsageError(f"Invalid port for the page: {port}", hint="Use 1 to 65535.")
    loaded = read_profile(profile)
    asked = loaded.telemetry()
    if asked.mistake:
        raise UsageError(asked.mistake)
    # Asked beforehand, to report who holds it.
    await asyncio.to_thread(check_free, "metrics", port, "--port")
    asked = replace(asked, metrics=asked.metrics | {"prometheus"}, page=(host, port), traces=False)
    exporters = await asyncio.to_thread(start, asked, this_process())
    if exporters.no_page or exporters.meter is None:
        raise UsageError(exporters.no_page, hint="Choose another --host or --port.")
    shown, ending, trouble = LedgerMetrics(exporters.meter), asyncio.Event(), ""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    print_line(f"http://{host}:{port}/metrics shows the ledger. Ctrl-C ends it.")
    while not ending.is_set():
        before, trouble = trouble, ""
        try:
            # Opened each time: it may not be there before the first run.
            with reading_ledger(profile) as ledger:
                shown.values = _values(await ledger.standing())
        except ComfylineError as error:
            shown.values, trouble = {"comfyline_ledger_up": [(0, {})]}, str(error)
            if trouble != before:
                print_line(trouble)
        with suppress(TimeoutError):
            async with asyncio.timeout(_BETWEEN_LOOKS):
                await ending.wait()
    await asyncio.to_thread(exporters.stop)
    return 0


def _values(found: Standing) -> Values:
    oldest = found.oldest_unstored
    return {
        "comfyline_ledger_up": [(1, {})],
        "comfyline_jobs": [(n, {"state": state}) for state, n in found.unfinished.items()],
        "comfyline_in_doubt": [(found.in_doubt, {})],
        "comfyline_oldest_unstored_seconds": [
            ((found.now - oldest).total_seconds() if oldest else 0, {})
        ],
        "comfyline_day_jobs": [
            (jobs, {"pipeline": pipeline, "state": state})
            for (pipeline, state), (jobs, _) in found.today.items()
        ],
        "comfyline_day_cost_usd": [
            (cost, {"pipeline": pipeline, "state": state})
            for (pipeline, state), (_, cost) in found.today.items()
        ],
        "comfyline_last_completed_timestamp_seconds": [
            (when.timestamp(), {"pipeline": pipeline}) for pipeline, when in found.completed.items()
        ],
    }
