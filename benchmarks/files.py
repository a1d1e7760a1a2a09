"""Many files, and one large one: comfyline's `Bucket` beside the plain clients, up and down.

The sides take turns on one server, several rounds, each in a process of its own: at once they would
share the machine unevenly, as whoever ends first leaves the rest to the other. A ratio is taken
within each round, and the middle one counts.
"""

import asyncio
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.race import Figures, Side, race
from benchmarks.servers import playground, storage_environment
from benchmarks.table import Table, ratio

_FILES, _QUICK_FILES = 200, 40
_ROUNDS = 3
_FILE_MB = 5
_LARGE_MB, _QUICK_LARGE_MB = 300, 60
_MEGABYTE = 1024 * 1024
_WAYS = ("up", "down")
_SIDES = {
    "files_bucket": "comfyline Bucket",
    "files_plain": "presigned, aiohttp",
    "files_s3fs": "s3fs, its defaults",
}
_BETTER = "(above 1: comfyline is faster)"

_Rounds = Sequence[Mapping[str, Figures]]
"""What each side told, round by round."""


async def measure(*, quick: bool) -> list[Table]:
    """Measure the many files up and down, then the large one."""
    files, large_mb = (_QUICK_FILES, _QUICK_LARGE_MB) if quick else (_FILES, _LARGE_MB)
    many = f"{files} x {_FILE_MB} MB"
    async with playground(("storage",)) as project:
        there = storage_environment(project)
        await asyncio.to_thread(_write, project / "files", files, _FILE_MB)
        # Once for nothing: to make a file takes the server longer than to replace it.
        await race(project, Side("files_plain", ("up",), there))
        tables = [await _measure(project, there, way, many, files * _FILE_MB) for way in _WAYS]
        await asyncio.to_thread(_write, project / "files", 1, large_mb)
        large = f"1 x {large_mb} MB"
        tables += [await _measure(project, there, way, large, large_mb) for way in _WAYS]
    return tables


async def _measure(
    project: Path, there: Mapping[str, str], way: str, what: str, megabytes: int
) -> Table:
    """Let all sides move what lies in `files`, round by round."""
    rounds = [await _round(project, there, way, number) for number in range(_ROUNDS)]
    rows = []
    for side, name in _SIDES.items():
        told = [one[side] for one in rounds]
        seconds = statistics.median(one["seconds"] for one in told)
        rows.append(
            (
                name,
                f"{megabytes / seconds:.0f}",
                f"{statistics.median(one['cpu'] for one in told):.1f}",
                f"{max(one['base_mb'] for one in told):.0f}",
                f"{max(one['peak_mb'] for one in told):.0f}",
            )
        )
    return Table(
        f"files: {what} {way}, 8 at a time, in turn, {len(rounds)} rounds",
        ("side", "MB/s", "CPU s", "before MB", "peak MB"),
        rows,
        [
            f"{name} ÷ comfyline, s: {_middle(rounds, side)} {_BETTER}"
            for side, name in _SIDES.items()
            if side != "files_bucket"
        ],
    )


async def _round(
    project: Path, there: Mapping[str, str], way: str, number: int
) -> Mapping[str, Figures]:
    """Run each side once, in another order each time: the first one finds another machine."""
    first = number % len(_SIDES)
    order = [*list(_SIDES)[first:], *list(_SIDES)[:first]]
    return {side: (await race(project, Side(side, (way,), there)))[0] for side in order}


def _write(folder: Path, files: int, megabytes: int) -> None:
    """Fill a folder with so many files of random bytes, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    block = os.urandom(_MEGABYTE)
    for number in range(files):
        with (folder / f"{number:03}.png").open("wb") as file:
            for _ in range(megabytes):
                file.write(block)


def _middle(rounds: _Rounds, side: str) -> str:
    ratios = [one[side]["seconds"] / one["files_bucket"]["seconds"] for one in rounds]
    return ratio(statistics.median(ratios), 1)
