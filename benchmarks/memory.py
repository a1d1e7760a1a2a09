"""A large file to and from S3: comfyline's `Bucket` beside s3fs's own put_file and get_file.

Each transfer is a process of its own, so that the system counts its memory from its start to its
end; both sides move their copy at the same moment through one server.
"""

import asyncio
import os
from pathlib import Path

from benchmarks.race import Figures, Side, race
from benchmarks.servers import playground, storage_environment
from benchmarks.table import Table, ratio

_MEGABYTES, _QUICK = 300, 60
_BETTER = "(above 1: comfyline is better)"
_WAYS = ("put", "get")
_SIDES = {"bucket": "comfyline Bucket", "s3fs_defaults": "s3fs, its defaults"}


async def measure(*, quick: bool) -> list[Table]:
    """Race once up and once down."""
    megabytes = _QUICK if quick else _MEGABYTES
    async with playground(("storage",)) as project:
        await asyncio.to_thread(_write, project / "large", megabytes)
        there = storage_environment(project)
        races = {
            way: await race(project, *(Side(side, (way,), there) for side in _SIDES))
            for way in _WAYS
        }
    return [_table(way, megabytes, *figures) for way, figures in races.items()]


def _write(path: Path, megabytes: int) -> None:
    block = os.urandom(1024 * 1024)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)


def _table(way: str, megabytes: int, *figures: Figures) -> Table:
    rows = [
        (
            name,
            f"{one['base_mb']:.0f}",
            f"{one['peak_mb']:.0f}",
            f"{one['seconds']:.1f}",
            f"{one['cpu']:.1f}",
        )
        for name, one in zip(_SIDES.values(), figures, strict=True)
    ]
    ours, theirs = figures
    return Table(
        f"memory: {way} of {megabytes} MB, both at once",
        ("side", "before MB", "peak MB", "s", "CPU s"),
        rows,
        [
            f"s3fs ÷ comfyline, peak MB: {ratio(theirs['peak_mb'], ours['peak_mb'])} {_BETTER}",
            f"s3fs ÷ comfyline, s: {ratio(theirs['seconds'], ours['seconds'])} {_BETTER}",
        ],
    )
