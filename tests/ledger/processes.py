"""Real processes at a ledger, forked off one that has it imported, ended as a crash would."""

import asyncio
import multiprocessing
import queue
import time
from collections.abc import Callable
from typing import Any

from comfyline.files import this_process
from comfyline.ledger import claims
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Desk, asked

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.ledger.processes", "alembic.command", "psycopg"])

Work = Callable[[Desk, Any], Any]


def _do(work: Work, url: str, name: str | None, argument: Any, ready: Any, told: Any) -> None:
    ledger = Ledger(url, name or this_process())
    ready.wait(60)
    try:
        told.put(asyncio.run(work(Desk(ledger), argument)))
    except Exception as error:
        # Else whoever asked would wait for ever.
        told.put(RuntimeError(repr(error)))
        raise
    ledger.close()


def at_once(number: int, work: Work, url: str, argument: Any = None) -> list[Any]:
    """What each of some processes told that began at the same moment."""
    ready, told = CONTEXT.Barrier(number), CONTEXT.Queue()
    arguments = (work, url, None, argument, ready, told)
    started = [CONTEXT.Process(target=_do, args=arguments) for _ in range(number)]
    for one in started:
        one.start()
    try:
        answers = [told.get(timeout=150) for _ in started]
    except queue.Empty:
        for one in started:
            one.kill()
        raise
    for one in started:
        one.join()
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def killed_after(work: Work, url: str, argument: Any, name: str | None = None) -> str:
    """The name of a process that did its work, which says so by itself, and was killed then."""
    ready, told = CONTEXT.Barrier(1), CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=_do, args=(work, url, name, (argument, told), ready, told))
    process.start()
    own_name = str(told.get())
    process.kill()
    process.join()
    return own_name


async def count(desk: Desk, _: Any) -> int:
    return len(await desk.ledger.list())


async def claim_all(desk: Desk, jobs: int) -> list[int]:
    """Which of the jobs 0, 1, … this process got."""
    return [job for job in range(jobs) if await desk.asks(asked(f"{job}")) == "CLAIMED"]


async def claim_and_lock(desk: Desk, argument: Any) -> None:
    prompt, told = argument
    await desk.claimed(asked(prompt))
    assert await desk.ledger.acquire(asked(prompt).key)
    told.put(desk.ledger.worker_id)
    await asyncio.sleep(60)


async def stop_in_a_claim(desk: Desk, argument: Any) -> None:
    prompt, told = argument

    def claimed(*_: Any) -> None:
        told.put(desk.ledger.worker_id)
        time.sleep(60)

    claims.Claimed = claimed
    await desk.claim(asked(prompt))
