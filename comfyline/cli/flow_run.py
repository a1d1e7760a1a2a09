"""The work of run, generate and reconcile: a flow in this process, shown while it goes on.

The first Ctrl-C stops it in order, the second leaves at once; neither loses anything.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import date
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from comfyline.cli.console import (
    errors,
    leave_the_terminal,
    print_error,
    print_line,
    print_result,
)
from comfyline.cli.live import LiveDisplay, RunCounters, print_summary
from comfyline.cli.prefect import (
    PrefectIsGone,
    connect,
    leave_at_once,
    page,
    page_password,
    summary_of,
)
from comfyline.config.account import acting_for, command
from comfyline.config.load import logs_are_json, read_profile
from comfyline.errors import ComfylineError, InputInvalid, Interrupted, Unreachable
from comfyline.job import JobState
from comfyline.progress import observed_by
from comfyline.report.summary import DaysSummary, ErrorRecord, RunSummary, summary_of_days
from comfyline.run import CancelToken, cancelled_by
from comfyline.telemetry.logs import JsonLines

T = TypeVar("T")

_ANSWERS_TAKE = 2.0
"""Seconds that POSTs under way may take when somebody wants to leave: else each is a doubt."""


async def run_and_report(
    name: str,
    profile: str,
    read: Callable[[], Awaitable[T]],
    flow: Callable[[T], Awaitable[Any]],
    *,
    days: Sequence[date] = (),
    json_output: bool,
) -> int:
    """Run a flow under the display and return the exit code.

    What it needs is read before anything is started, so that mistakes are told at once; `flow`
    gets what was read. It is called once for each of several days, until the run is told to stop
    or RunComfy cannot be reached; the summary is then that of all.
    """
    if is_json := logs_are_json():
        errors.file = JsonLines()
    # The events of the run are in the log then, each with its fields.
    console = Console(quiet=True) if is_json else errors
    display, token, began = LiveDisplay(console), CancelToken(), time.monotonic()
    ended: list[RunSummary] = []
    broke_off: ComfylineError | None = None
    server_is_gone = False

    async def one(values: T) -> RunSummary:
        nonlocal server_is_gone
        with display, cancelled_by(token), observed_by(display):
            try:
                return await summary_of(flow(values))
            except PrefectIsGone as gone:
                server_is_gone = True
                if display.reported is None:
                    raise
                print_line(f"{gone.message}. Its page of this run is incomplete; the run is not.")
                return RunSummary.model_validate_json(display.reported.read_bytes())

    async def work(values: T) -> None:
        nonlocal display, began
        await connect(loaded.local_services)
        for day in days or (None,):
            if ended:
                display, began = LiveDisplay(console), time.monotonic()
            summary = await one(values)
            ended.append(summary)
            print_summary(errors, _called(summary, f" {day or ''}"), page(summary.run_id))
            is_away = summary.exit_code == Unreachable.exit_code
            if token.is_cancelled or server_is_gone or is_away:
                break

    try:
        loaded = read_profile(profile)
        with acting_for(loaded.account):
            # A pipe may never end, and asyncio acts on Ctrl-C only where a coroutine waits.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            values = await read()
            loaded.check_token()
            await _interruptible(work(values), token)
    except ComfylineError as error:
        print_error(error)
        broke_off = error
        ended.append(_broken_off(name, error, display.counters, time.monotonic() - began))
    summary = ended[0]
    if days[1:]:
        summary = summary_of_days(days, ended)
        print_summary(errors, _called(summary, f" {days[0]}..{days[-1]}"), None)
    if not broke_off:
        _print_login()
    if json_output:
        print_result(summary.to_json())
    code = _exit_code(summary, broke_off, is_cancelled=token.is_cancelled)
    return leave_at_once(code) if server_is_gone else code


def _exit_code(summary: RunSummary, broke_off: ComfylineError | None, *, is_cancelled: bool) -> int:
    if broke_off and not isinstance(summary, DaysSummary):
        return broke_off.exit_code
    if is_cancelled or isinstance(broke_off, Interrupted):
        return Interrupted.exit_code
    return summary.exit_code


def _called(summary: RunSummary, days: str) -> RunSummary:
    return summary.model_copy(update={"pipeline": f"{summary.pipeline}{days}".rstrip()})


def _print_login() -> None:
    if password := page_password():
        # Only on a terminal: all else may be a log.
        shown = password if errors.is_terminal else "`comfyline status` shows its password"
        errors.print(Text.assemble(("  login    ", "dim"), shown), soft_wrap=True)


def _broken_off(name: str, error: ComfylineError, seen: RunCounters, seconds: float) -> RunSummary:
    """Summarise a run that ended without its own summary, from what it reported of its jobs."""
    counted = {
        "persisted": seen.ends[JobState.PERSISTED],
        "reused": seen.reused,
        "failed": seen.ends[JobState.FAILED] + seen.ends[JobState.EXPIRED],
        "cancelled": seen.ends[JobState.CANCELLED],
        "in_doubt": seen.ends[JobState.IN_DOUBT],
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
        seconds=seconds,
        errors=tuple(
            ErrorRecord(job="", item="", stage="", kind=error.kind, message=message, hint=hint)
            for message, hint in messages or [(error.message, error.hint)]
        ),
    )


async def _interruptible(work: Coroutine[Any, Any, T], token: CancelToken) -> T:
    """Do the work; the first Ctrl-C cancels `token`, the second ends the process.

    The second waits a moment for POSTs under way, a third does not even do that. Raises
    `Interrupted` when the work was not yet far enough to be stopped in order.
    """
    task = asyncio.ensure_future(work)
    leaving: list[asyncio.Task[None]] = []

    async def leave() -> None:
        await token.nothing_sending(_ANSWERS_TAKE)
        print_line(f"Left at once. {command('reconcile')} collects what is at RunComfy.")
        leave_at_once(Interrupted.exit_code)

    def stop(reason: str) -> None:
        token.cancel(reason)
        if not token.is_watched:
            task.cancel()

    def interrupt() -> None:
        if leaving:
            leave_at_once(Interrupted.exit_code)
        if token.is_cancelled:
            leaving.append(asyncio.ensure_future(leave()))
            return
        stop("it was interrupted")
        if token.is_watched:
            print_line(
                "Stopping: nothing more is submitted, and what is queued is cancelled. "
                "Ctrl-C again leaves at once."
            )

    def hang_up() -> None:
        leave_the_terminal()
        stop("its terminal went away")

    handlers = {signal.SIGINT: interrupt}
    # `nohup` asks for it to be ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(
            "Interrupted",
            hint="What was submitted continues at RunComfy and is in the ledger. Run again, or "
            f"{command('reconcile')}: nothing is paid for twice.",
        ) from None
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
