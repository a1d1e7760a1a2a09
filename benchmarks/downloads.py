"""One large output from a plain server on this machine: comfyline beside HTTP libraries alone.

Each side is a process of its own and has the machine for itself; comfyline hashes what it fetches
and, where it says so, proves that it is a video.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from benchmarks.processes import end, environment
from benchmarks.race import Figures, Side, race
from benchmarks.servers import playground
from benchmarks.table import Table, ratio

_MEGABYTES, _QUICK = 2000, 200
_BETTER = "(above 1: comfyline is better)"
_SIDES = {
    "aiohttp, to disk": ("streams", "aiohttp"),
    "aiohttp, to disk and hashed": ("streams", "hashed"),
    "httpx, to disk": ("streams", "httpx"),
    "comfyline, hashed": ("output", "hashed"),
    "comfyline, hashed and proved": ("output", "proved"),
}


async def measure(*, quick: bool) -> list[Table]:
    """Measure all sides, one after the other."""
    megabytes = _QUICK if quick else _MEGABYTES
    async with playground() as project:
        file = project / "video.mp4"
        await asyncio.to_thread(_write_video, file, megabytes)
        with _serving(file) as origin:
            url = f"{origin}/video.mp4"
            races = [
                (await race(project, Side(module, (way, url))))[0]
                for module, way in _SIDES.values()
            ]
    return [_table(megabytes, races)]


def _write_video(path: Path, megabytes: int) -> None:
    """Write a whole MP4: a second of black, and a box of free space that makes it large."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with path.open("r+b") as file:
        end_of_video = file.seek(0, 2)
        file.write((megabytes * 10**6 - end_of_video).to_bytes(4, "big") + b"free")
        file.truncate(megabytes * 10**6)


@contextmanager
def _serving(file: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.cdn", str(file)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            port = process.stdout.readline() if process.stdout else b""
            yield f"http://127.0.0.1:{int(port)}"
        finally:
            end(process)


def _table(megabytes: int, races: list[Figures]) -> Table:
    rows = [
        (
            name,
            f"{megabytes / one['seconds']:.0f}",
            f"{one['cpu']:.1f}",
            f"{one['base_mb']:.0f}",
            f"{one['peak_mb']:.0f}",
        )
        for name, one in zip(_SIDES, races, strict=True)
    ]
    plain, hashed, _, _, proved = (one["seconds"] for one in races)
    peak = races[-1]["peak_mb"]
    return Table(
        f"downloads: one output of {megabytes} MB",
        ("side", "MB/s", "CPU s", "before MB", "peak MB"),
        rows,
        [
            f"comfyline proved ÷ aiohttp hashed, MB/s: {ratio(hashed, proved)} {_BETTER}",
            f"comfyline proved ÷ aiohttp alone, MB/s: {ratio(plain, proved)} {_BETTER}",
            f"comfyline proved, peak MB: {peak:.0f} (300 is the bound)",
        ],
    )
