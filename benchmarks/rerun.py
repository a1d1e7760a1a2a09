"""A rerun with nothing to do: `comfyline plan` beside GNU make on as many files.

Some photographs, twenty pictures of each. The ledger is filled through its own tables, so
nothing has to be made first. make compares times of files; the plan knows each photograph by its
content, makes each job's key from it, asks the ledger and looks at every output.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.race import Figures, Side, environment, race
from benchmarks.servers import home_of, playground
from benchmarks.table import Table, ratio

_PHOTOS, _QUICK = 500, 20
_RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16")
_SIZES = ("1K", "2K")
_OF_EACH = len(_RATIOS) * len(_SIZES)
_ROUNDS = 3
_SETTLED = 2.5
"""Seconds after which a file counts as unchanged by its stamp alone."""
_BETTER = "(above 1: comfyline is better)"
_PIPELINE = f"""\
name: rerun
source:
  files: photos/*.png
matrix:
  aspect_ratio: {json.dumps(_RATIOS)}
  size: {json.dumps(_SIZES)}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: "Change the scene to a modern office, soft daylight, background only."
      image_urls: ["{{{{ item.path }}}}"]
      aspect_ratio: "{{{{ matrix.aspect_ratio }}}}"
      resolution: "{{{{ matrix.size }}}}"
output:
  to: outputs
  name: "{{{{ item.stem }}}}-{{{{ matrix.aspect_ratio }}}}-{{{{ matrix.size }}}}.{{{{ ext }}}}"
"""


def _makefile() -> str:
    """Write a static pattern rule for each of the pictures of a photograph."""
    names = [f"{one.replace(':', '-')}-{size}" for one in _RATIOS for size in _SIZES]
    stems = "$(photos:photos/%.png={})"
    lines = ["photos := $(wildcard photos/*.png)", "all:"]
    for name in names:
        target = f"outputs/%-{name}.png"
        targets = stems.format(target)
        lines += [f"all: {targets}", f"{targets}: {target}: photos/%.png", "\tcp $< $@"]
    return "\n".join(lines) + "\n"


async def measure(*, quick: bool) -> list[Table]:
    """Run some rounds of both at once, then whole processes, each on its own."""
    photos = _QUICK if quick else _PHOTOS
    jobs = photos * _OF_EACH
    async with playground(() if quick else ("prefect", "storage")) as project:
        (project / "pipeline.yaml").write_text(_PIPELINE)
        (project / "Makefile").write_text(_makefile())
        home = {
            "COMFYLINE_HOME": str(home_of(project)),
            # Nothing answers there: a plan of what is there asks nobody.
            "RUNCOMFY_BASE_URL": "http://127.0.0.1:9",
            "RUNCOMFY_API_TOKEN": "none",
        }
        await race(project, Side("history", (str(photos),), home))
        await asyncio.sleep(_SETTLED)
        plan, make = Side("plan", (str(jobs),), home), Side("make")
        # The first plan reads every photograph, and is not what is measured.
        await race(project, plan)
        rounds = [await race(project, plan, make) for _ in range(_ROUNDS)]
        commands = ("plan",) if quick else ("plan", "run")
        whole = {
            command: await asyncio.to_thread(_whole, command, project, home, jobs)
            for command in commands
        }
    return [_table(jobs, rounds, whole)]


def _whole(command: str, project: Path, home: dict[str, str], jobs: int) -> float:
    """Time one command with `--json`, from the start of its process to its end."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "comfyline.cli", command, "pipeline.yaml", "--json"],
        cwd=project,
        env=environment(home),
        capture_output=True,
        check=True,
        timeout=300,
    )
    seconds = time.perf_counter() - began
    if json.loads(done.stdout)["reused"] != jobs:
        raise RuntimeError("something was to be made")
    return seconds


def _table(jobs: int, rounds: Sequence[Sequence[Figures]], whole: dict[str, float]) -> Table:
    ours, make = _median([one for one, _ in rounds]), _median([one for _, one in rounds])
    rows = [
        ("comfyline plan, imports included", *_cells(ours)),
        ("GNU make", *_cells(make)[:2], ""),
    ]
    rows += [
        (f"comfyline {command} --json, whole process, alone", f"{seconds:.2f}", "", "")
        for command, seconds in whole.items()
    ]
    return Table(
        f"rerun: {jobs} jobs, all there, both at once, median of {len(rounds)}",
        ("side", "s", "CPU s", "peak MB"),
        rows,
        [
            f"make ÷ comfyline, s: {ratio(make['seconds'], ours['seconds'])} {_BETTER}",
            f"make ÷ comfyline, CPU s: {ratio(make['cpu'], ours['cpu'])} {_BETTER}",
        ],
    )


def _median(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def _cells(one: Figures) -> tuple[str, str, str]:
    return f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", f"{one['peak_mb']:.0f}"
