"""Eight files at a time: what all sides of `files` have in common."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.contenders.side import peak_mb, start

AT_ONCE = 8


async def move(way: str, one: Callable[[Path, str], Awaitable[None]]) -> None:
    """Call `one` with each local file and its name in the bucket, and tell the figures.

    A file that comes down is written beside those that went up.
    """
    files = sorted(Path("files").iterdir())  # noqa: ASYNC240  # before the start
    down = Path("down")
    down.mkdir(exist_ok=True)  # noqa: ASYNC240
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(file: Path) -> None:
        async with gate:
            await one(file if way == "up" else down / file.name, file.name)

    base, watch = peak_mb(), start()
    await asyncio.gather(*(gated(file) for file in files))
    watch.tell(base_mb=base)
