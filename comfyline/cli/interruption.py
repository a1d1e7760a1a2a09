"""Ctrl-C: the first stops the run in order, the second leaves at once; neither loses anything."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from comfyline.account import command
from comfyline.cli.orchestrator import leave_at_once
from comfyline.cli.speech import say
from comfyline.errors import Interrupted
from comfyline.stopping import Stop

T = TypeVar("T")

_ANSWERS_TAKE = 2.0
"""Seconds that POSTs under way may take when somebody wants to leave: else each is a doubt."""


async def interruptible(work: Coroutine[Any, Any, T], stop: Stop) -> T:
    """Does the work; the first Ctrl-C pulls `stop`, the second ends the process.

    The second waits a moment for POSTs under way, a third does not even do that. Raises
    `Interrupted` when the work had not come so far that it could be stopped in order.
    """
    task = asyncio.ensure_future(work)

    async def leave() -> None:
        await stop.nothing_sending(_ANSWERS_TAKE)
        say(f"Left at once: what is at RunComfy is in the ledger, {command('reconcile')} it.")
        leave_at_once(Interrupted.exit_code)

    leaving: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if leaving:
            leave_at_once(Interrupted.exit_code)
        if stop.is_pulled:
            leaving.append(asyncio.ensure_future(leave()))
            return
        stop.pull("it was interrupted")
        if stop.is_heeded:
            say(
                "Stopping: nothing more is submitted, and what is queued is cancelled. "
                "Ctrl-C again leaves at once."
            )
        else:
            task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(
            "Interrupted",
            hint="What was submitted goes on at RunComfy and is in the ledger: run again, or "
            f"{command('reconcile')}, and nothing is paid twice.",
        ) from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
