"""The work of run, generate and reconcile: a flow in this process, shown while it goes on."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from comfyline.cli.console import errors, print_error, print_line, print_result
from comfyline.cli.interruption import interruptible
from comfyline.cli.live import LiveDisplay, print_summary
from comfyline.cli.prefect import (
    Flow,
    PrefectIsGone,
    connect,
    leave_at_once,
    page,
    page_password,
    run_flow,
)
from comfyline.config.account import acting_for
from comfyline.config.load import read_profile
from comfyline.errors import ComfylineError, InputInvalid, Interrupted
from comfyline.job import JobState
from comfyline.progress import Event, RunReported, observed_by
from comfyline.report.counters import RunCounters
from comfyline.report.summary import ErrorRecord, RunSummary
from comfyline.run import CancelToken, cancelled_by


def run_and_report(
    name: str,
    profile: str,
    flow: Flow,
    *,
    check: Callable[[], object] = lambda: None,
    json_output: bool,
) -> int:
    """Check early, start what is needed, run the flow under the display; return the exit code."""
    watched = _Watched()
    # Not what `asyncio.run` returns: it writes out the repr, for ten thousand outputs in seconds.
    ended: list[RunSummary] = []
    server_is_gone = False
    token = CancelToken()

    async def work() -> None:
        nonlocal server_is_gone
        await connect(loaded.local_services)
        with LiveDisplay(errors) as display, cancelled_by(token):
            watched.display = display
            with observed_by(watched):
                try:
                    ended.append(await run_flow(flow))
                except PrefectIsGone as gone:
                    server_is_gone = True
                    if watched.summary is None:
                        raise
                    print_line(
                        f"{gone.message}. Its page of this run is incomplete; the run is not."
                    )
                    ended.append(RunSummary.model_validate_json(watched.summary.read_bytes()))

    try:
        loaded = read_profile(profile)
        with acting_for(loaded.account):
            check()
            loaded.check_token()
            asyncio.run(interruptible(work(), token))
    except ComfylineError as error:
        print_error(error)
        code = error.exit_code
        if json_output:
            print_result(watched.broken_off(name, error).to_json())
    else:
        [summary] = ended
        code = Interrupted.exit_code if token.is_cancelled else summary.exit_code
        print_summary(errors, summary, page(summary.run_id))
        _print_password()
        if json_output:
            print_result(summary.to_json())
    return leave_at_once(code) if server_is_gone else code


class _Watched:
    """An observer that counts the events of a run and hands them on to the display."""

    def __init__(self) -> None:
        self.display: Callable[[Event], None] | None = None
        self.summary: Path | None = None
        self._counters = RunCounters()
        self._began = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take one event of the run."""
        self._counters.count(event)
        if isinstance(event, RunReported):
            self.summary = Path(event.summary)
        elif self.display:
            self.display(event)

    def broken_off(self, name: str, error: ComfylineError) -> RunSummary:
        """Summarise a run that ended without its own summary, from what it reported of its jobs."""
        seen, ends = self._counters, self._counters.ends
        counted = {
            "persisted": ends[JobState.PERSISTED],
            "reused": seen.reused,
            "failed": ends[JobState.FAILED] + ends[JobState.EXPIRED],
            "cancelled": ends[JobState.CANCELLED],
            "in_doubt": ends[JobState.IN_DOUBT],
        }
        at_an_end = sum(counted.values())
        jobs = max(seen.jobs or 0, at_an_end)
        problems = error.problems if isinstance(error, InputInvalid) else ()
        messages = [(f"{one.where}: {one.message}", one.hint) for one in problems]
        return RunSummary(
            run_id=seen.run_id,
            pipeline=seen.pipeline or name,
            jobs=jobs,
            **counted,
            unfinished=jobs - at_an_end,
            submitted=seen.submitted,
            cost_usd=seen.cost_usd,
            # What was submitted may have cost more than has been reported.
            estimate_usd=None if seen.submitted else 0,
            cost_unknown=seen.cost_unknown,
            seconds=time.monotonic() - self._began,
            errors=tuple(
                ErrorRecord(job="", item="", stage="", kind=error.kind, message=message, hint=hint)
                for message, hint in messages or [(error.message, error.hint)]
            ),
        )


def _print_password() -> None:
    """Print the password of the Prefect page, but only on a terminal: all else may be a log."""
    if password := page_password():
        shown = password if errors.is_terminal else "`comfyline status` shows its password"
        errors.print(Text.assemble(("  login    ", "dim"), shown), soft_wrap=True)
