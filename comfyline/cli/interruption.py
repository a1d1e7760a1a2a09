"""Ctrl-C: the first stops the run in order, the second leaves at once; neither loses anything."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from comfyline.cli.console import leave_the_terminal, print_line
from comfyline.cli.prefect import leave_at_once
from comfyline.config.account import command
from comfyline.errors import Interrupted
from comfyline.run import CancelToken

T = TypeVar("T")

_ANSWERS_TAKE = 2.0
"""Seconds that POSTs under way may take when somebody wants to leave: else each is a doubt."""


async def interruptible(work: Coroutine[Any, Any, T], token: CancelToken) -> T:
    """Do the work; the first Ctrl-C cancels `token`, the second ends the process.

    The second waits a moment for POSTs under way, a third does not even do that. Raises
    `Interrupted` when the work was not yet far enough to be stopped in order.
    """
    task = asyncio.ensure_future(work)

    async def leave() -> None:
        await token.nothing_sending(_ANSWERS_TAKE)
        print_line(f"Left at once. {command('reconcile')} collects what is at RunComfy.")
        leave_at_once(Interrupted.exit_code)

    leaving: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if leaving:
            leave_at_once(Interrupted.exit_code)
        if token.is_cancelled:
            leaving.append(asyncio.ensure_future(leave()))
            return
        token.cancel("it was interrupted")
        if token.is_watched:
            print_line(
                "Stopping: nothing more is submitted, and what is queued is cancelled. "
                "Ctrl-C again leaves at once."
            )
        else:
            task.cancel()

    loop = asyncio.get_running_loop()

    def hang_up() -> None:
        leave_the_terminal()
        token.cancel("its terminal went away")
        if not token.is_watched:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    # `nohup` asks for it to be ignored.
    hears_hang_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    if hears_hang_up:
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(
            "Interrupted",
            hint="What was submitted continues at RunComfy and is in the ledger. Run again, or "
            f"{command('reconcile')}: nothing is paid for twice.",
        ) from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if hears_hang_up:
            loop.remove_signal_handler(signal.SIGHUP)
