"""A rerun with nothing to do: comfyline's plan and survey beside GNU make on as many files.

One small photograph and one picture a job. The ledger is filled through its own API, so nothing
has to be made first. make compares times of files; the survey reads every photograph, makes each
job's key from the content, asks the ledger and looks at every output.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import environment
from benchmarks.race import Figures, Side, race
from benchmarks.servers import home_of, playground
from benchmarks.table import Table, ratio

_JOBS, _QUICK = 2000, 300
_ROUNDS = 3
_BETTER = "(above 1: comfyline is better)"
_PIPELINE = """\
name: rerun
source:
  files: photos/*.png
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: "Change the scene to a modern office, soft daylight, background only."
      image_urls: ["{{ item.path }}"]
output:
  to: outputs
  name: "{{ item.stem }}.{{ ext }}"
"""
_MAKEFILE = """\
photos := $(wildcard photos/*.png)
all: $(photos:photos/%=outputs/%)
outputs/%.png: photos/%.png
\tcp $< $@
"""


async def measure(*, quick: bool) -> list[Table]:
    """Some rounds of both at once, then one whole `comfyline run` on its own."""
    jobs = _QUICK if quick else _JOBS
    async with playground(() if quick else ("prefect", "storage")) as project:
        (project / "pipeline.yaml").write_text(_PIPELINE)
        (project / "Makefile").write_text(_MAKEFILE)
        home = {
            "COMFYLINE_HOME": str(home_of(project)),
            # Nothing answers there: a survey asks nobody.
            "RUNCOMFY_BASE_URL": "http://127.0.0.1:9",
            "RUNCOMFY_API_TOKEN": "none",
        }
        await race(project, Side("history", (str(jobs),), home))
        survey, make = Side("survey", (str(jobs),), home), Side("make")
        rounds = [await race(project, survey, make) for _ in range(_ROUNDS)]
        whole = None if quick else await asyncio.to_thread(_whole_run, project, home, jobs)
    return [_table(jobs, rounds, whole)]


def _whole_run(project: Path, home: dict[str, str], jobs: int) -> float:
    """Seconds of one `comfyline run --json`, process start, orchestrator and report included."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "comfyline.cli", "run", "pipeline.yaml", "--json"],
        cwd=project,
        env=environment(**home),
        capture_output=True,
        check=True,
        timeout=300,
    )
    seconds = time.perf_counter() - began
    if json.loads(done.stdout)["reused"] != jobs:
        raise RuntimeError("the run made something")
    return seconds


def _table(jobs: int, rounds: Sequence[Sequence[Figures]], whole: float | None) -> Table:
    ours, make = _median([one for one, _ in rounds]), _median([one for _, one in rounds])
    rows = [
        ("comfyline plan and survey", *_cells(ours)),
        ("  of it the survey", f"{ours['survey_seconds']:.2f}", "", ""),
        ("GNU make", *_cells(make)),
    ]
    if whole is not None:
        rows.append(("comfyline run --json, whole process", f"{whole:.2f}", "", ""))
    return Table(
        f"rerun: {jobs} jobs, all there, both at once, median of {len(rounds)}",
        ("side", "s", "CPU s", "peak MB"),
        rows,
        [
            f"make ÷ comfyline, s: {ratio(make['seconds'], ours['seconds'])} {_BETTER}",
            f"make ÷ survey alone, s: {ratio(make['seconds'], ours['survey_seconds'])} {_BETTER}",
        ],
    )


def _median(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def _cells(one: Figures) -> tuple[str, str, str]:
    return f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", f"{one['peak_mb']:.0f}"
