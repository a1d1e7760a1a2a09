"""A race of processes: each gets ready, all start at the same moment, each tells its figures.

A side is a module of `benchmarks.contenders`, which speaks through `benchmarks.contenders.side`.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]

_LIMIT = 600.0
"""Seconds after which a race is given up."""
_FOREIGN = ("PREFECT_", "RUNCOMFY_", "COMFYLINE_", "AWS_")

Figures = Mapping[str, float]
"""What a side tells at its end: `seconds`, `cpu`, `peak_mb`, and what is its own."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a race: its module, its arguments and what its environment has besides."""

    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process without what would lead to somebody's servers."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return {**kept, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", **more}


async def race(folder: Path, *sides: Side, limit: float = _LIMIT) -> list[Figures]:
    """Run all sides at once in a folder; return their figures in order. Ends them if cancelled."""
    with ExitStack() as stack:
        running = [stack.enter_context(_Running(folder, side)) for side in sides]
        async with asyncio.timeout(limit):
            await asyncio.gather(*(one.ready() for one in running))
            for one in running:
                one.start()
            return await asyncio.gather(*(one.figures() for one in running))


class _Running:
    """The process of one side. Its pipes are read in threads, which end with the process."""

    def __init__(self, folder: Path, side: Side) -> None:
        self._side = side
        self._log = folder / f"{side.module}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.contenders.{side.module}", *side.arguments],
                cwd=folder,
                env=environment(side.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def __enter__(self) -> "_Running":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    async def ready(self) -> None:
        """Wait until everything is prepared."""
        await self._heard("ready")

    def start(self) -> None:
        """Give the sign."""
        pipe = _open(self._process.stdin)
        pipe.write(b"start\n")
        pipe.flush()

    async def figures(self) -> Figures:
        """Wait for the end and return the figures."""
        figures: Figures = json.loads(await self._heard("{"))
        return figures

    async def _heard(self, beginning: str) -> str:
        """Read the next line on stdout that begins so; others are somebody's chatter."""
        pipe = _open(self._process.stdout)
        while line := (await asyncio.to_thread(pipe.readline)).decode():
            if line.startswith(beginning):
                return line
        raise RuntimeError(f"{self._side.module} broke off:\n{self._log.read_text()[-3000:]}")


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the process was started without this pipe")
    return pipe
