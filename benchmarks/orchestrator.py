"""What a job costs besides its picture, for a few and for many: it is to be the same.

The flow of `comfyline run` over jobs that the sandbox completes at once, on a stack of its own for
each number. Counted are the CPU of the client and of the Prefect server, until the server has
written all of it down, and the bytes that Prefect's database and the ledger have grown by.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.race import Side, race
from benchmarks.servers import home_of, playground
from benchmarks.table import Table, ratio
from comfyline.stack.home import Layout
from comfyline.stack.process import read_record
from comfyline.stack.services import basic_auth
from comfyline.stack.stack import StackAddresses, ensure

_JOBS, _QUICK = (100, 1000), (20, 60)
_STAGES = 6
_LIMIT = 3 * 3600.0
_QUIET = 30.0
"""Seconds without a new task run after which the server counts as done; it may have lost some."""
_SANDBOX = {"SANDBOX_SLOTS": "64", "SANDBOX_SPEED": "1000", "SANDBOX_PIXELS": "64"}
_PIPELINE = """\
name: orchestrator
source: {table: items.csv}
steps:
  make:
    model: google/nano-banana-2-lite/text-to-image
    input: {prompt: "number {{ item.number }}", aspect_ratio: "21:9"}
output: {to: outputs, name: "{{ item.number }}.{{ ext }}"}
limits: {in_flight: 32, timeout: 30m}
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run of some jobs took; all but `jobs`, `seconds` and `peak_mb` is a job's share."""

    jobs: int
    seconds: float
    peak_mb: float
    client_ms: float
    server_ms: float
    prefect_kb: float
    ledger_kb: float
    visible: int


async def measure(*, quick: bool, jobs: Sequence[int] = ()) -> list[Table]:
    """Run each number of jobs on its own, and compare the last with the first."""
    os.environ.update(_SANDBOX)
    return [_table([await _cost(number) for number in jobs or (_QUICK if quick else _JOBS)])]


async def _cost(jobs: int) -> Cost:
    async with playground() as project:
        (project / "pipeline.yaml").write_text(_PIPELINE)
        items = "\n".join(map(str, range(jobs)))
        (project / "items.csv").write_text(f"number\n{items}\n")
        home = home_of(project)
        stack = await ensure(home, model_dirs=[project / "configs/models"])
        server, books = _server(home), home / "prefect/prefect.db"
        before = _cpu(server), _bytes(books)
        runcomfy = {
            "COMFYLINE_HOME": str(home),
            "RUNCOMFY_BASE_URL": str(stack.sandbox_url),
            "RUNCOMFY_API_TOKEN": str(stack.sandbox_token),
        }
        [run] = await race(project, Side("flow", ("pipeline.yaml",), runcomfy), limit=_LIMIT)
        visible = await _all_visible(stack, jobs * _STAGES)
        return Cost(
            jobs=jobs,
            seconds=run["seconds"],
            peak_mb=run["peak_mb"],
            client_ms=run["cpu"] / jobs * 1000,
            server_ms=(_cpu(server) - before[0]) / jobs * 1000,
            prefect_kb=(_bytes(books) - before[1]) / jobs / 1000,
            ledger_kb=_bytes(home / "ledger.sqlite3") / jobs / 1000,
            visible=visible,
        )


def _server(home: Path) -> psutil.Process:
    record = read_record(Layout(home).record("prefect"))
    if record is None:
        raise RuntimeError("the Prefect server does not run")
    return psutil.Process(record.pid)


def _cpu(server: psutil.Process) -> float:
    """Return the seconds of CPU that a server and its children have used."""
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _bytes(database: Path) -> int:
    """Return what is in a SQLite database, its log included."""
    with closing(sqlite3.connect(database)) as connection:
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


async def _all_visible(stack: StackAddresses, task_runs: int) -> int:
    """Wait until Prefect shows all task runs, or no more of them; return how many it shows."""
    completed = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    url, auth = (
        f"{stack.prefect_api_url}/task_runs/count",
        basic_auth(stack.prefect_auth_string or ""),
    )
    async with httpx.AsyncClient(trust_env=False, timeout=60, auth=auth) as http:
        seen, since = -1, time.monotonic()
        while seen < task_runs and time.monotonic() - since < _QUIET:
            found = int((await http.post(url, json=completed)).raise_for_status().json())
            if found != seen:
                seen, since = found, time.monotonic()
            await asyncio.sleep(0.5)
    return seen


def _table(costs: Sequence[Cost]) -> Table:
    few, many = costs[0], costs[-1]
    times = f"{many.jobs:,} jobs ÷ {few.jobs:,}"
    same = "(1 or below: no dearer for many)"
    return Table(
        "orchestrator: jobs that are complete at once, 32 in flight, each number on its own",
        (
            "jobs",
            "s",
            "peak MB",
            "client ms/job",
            "server ms/job",
            "Prefect kB/job",
            "ledger kB/job",
        ),
        [
            (
                f"{one.jobs:,}",
                f"{one.seconds:.1f}",
                f"{one.peak_mb:.0f}",
                f"{one.client_ms:.0f}",
                f"{one.server_ms:.0f}",
                f"{one.prefect_kb:.1f}",
                f"{one.ledger_kb:.1f}",
            )
            for one in costs
        ],
        [
            f"{times}, client CPU a job: {ratio(many.client_ms, few.client_ms)} {same}",
            f"{times}, server CPU a job: {ratio(many.server_ms, few.server_ms)} {same}",
            f"{times}, Prefect's database a job: {ratio(many.prefect_kb, few.prefect_kb)} {same}",
            f"{times}, ledger a job: {ratio(many.ledger_kb, few.ledger_kb)} {same}",
            *(
                f"{one.jobs:,} jobs: {one.visible:,} of {one.jobs * _STAGES:,} task runs in Prefect"
                for one in costs
            ),
        ],
    )
