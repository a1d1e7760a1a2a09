"""Many files and large ones: comfyline's `Bucket` beside the plain clients, up and down.

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
_LARGE_MB, _QUICK_LARGE_MB = 2048, 160
_INPUTS, _INPUT_MB, _QUICK_INPUT_MB = 8, 100, 20
_MOST_MB = 300
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
    """Measure the small files up and down, then the large ones."""
    files = _QUICK_FILES if quick else _FILES
    async with playground(("storage",)) as project:
        await asyncio.to_thread(_write, project / "files", files, _FILE_MB)
        there = storage_environment(project)
        # Once for nothing: to make a file takes the server longer than to replace it.
        await race(project, Side("files_plain", ("up",), there))
        told = {
            way: [await _round(project, there, way, at) for at in range(_ROUNDS)] for way in _WAYS
        }
        await asyncio.to_thread(_clear, project)
        large_mb, input_mb = (_QUICK_LARGE_MB, _QUICK_INPUT_MB) if quick else (_LARGE_MB, _INPUT_MB)
        await asyncio.to_thread(_write, project / "inputs", _INPUTS, input_mb)
        await asyncio.to_thread(_write_one, project / "large", large_mb)
        large = (await race(project, Side("files_large", (), there)))[0]
    return [
        *(_table(way, files, rounds_told) for way, rounds_told in told.items()),
        _large_table(large, large_mb, input_mb),
    ]


async def _round(
    project: Path, there: Mapping[str, str], way: str, number: int
) -> Mapping[str, Figures]:
    """Run each side once, in another order each time: the first one finds another machine."""
    first = number % len(_SIDES)
    order = [*list(_SIDES)[first:], *list(_SIDES)[:first]]
    return {side: (await race(project, Side(side, (way,), there)))[0] for side in order}


def _write(folder: Path, files: int, megabytes: int) -> None:
    folder.mkdir()
    for number in range(files):
        _write_one(folder / f"{number:03}.png", megabytes)


def _write_one(path: Path, megabytes: int) -> None:
    block = os.urandom(_MEGABYTE)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)


def _clear(project: Path) -> None:
    for name in ("files", "down"):
        shutil.rmtree(project / name)


def _table(way: str, files: int, rounds: _Rounds) -> Table:
    rows = []
    for side, name in _SIDES.items():
        told = [one[side] for one in rounds]
        seconds = statistics.median(one["seconds"] for one in told)
        rows.append(
            (
                name,
                f"{files * _FILE_MB / seconds:.0f}",
                f"{statistics.median(one['cpu'] for one in told):.1f}",
                f"{max(one['peak_mb'] for one in told):.0f}",
            )
        )
    return Table(
        f"files: {files} x {_FILE_MB} MB {way}, 8 at a time, in turn, {len(rounds)} rounds",
        ("side", "MB/s", "CPU s", "peak MB"),
        rows,
        [
            f"{name} ÷ comfyline, s: {_middle(rounds, side)} {_BETTER}"
            for side, name in _SIDES.items()
            if side != "files_bucket"
        ],
    )


def _middle(rounds: _Rounds, side: str) -> str:
    ratios = [one[side]["seconds"] / one["files_bucket"]["seconds"] for one in rounds]
    return ratio(statistics.median(ratios), 1)


def _large_table(told: Figures, large_mb: int, input_mb: int) -> Table:
    moved = {
        f"{_INPUTS} inputs of {input_mb} MB up, at once": ("inputs_seconds", _INPUTS * input_mb),
        f"one file of {large_mb} MB up": ("up_seconds", large_mb),
        "the same down": ("down_seconds", large_mb),
    }
    return Table(
        "files: large ones, one process of comfyline's",
        ("what", "s", "MB/s"),
        [
            (what, f"{told[name]:.1f}", f"{megabytes / told[name]:.0f}")
            for what, (name, megabytes) in moved.items()
        ],
        [
            f"peak {told['peak_mb']:.0f} MB in all, {told['base_mb']:.0f} MB before",
            f"of {_MOST_MB} MB: {ratio(told['peak_mb'], _MOST_MB)} (below 1: it keeps within)",
        ],
    )
