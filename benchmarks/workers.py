"""One run in shards on a whole site, with one worker, then two, then three.

deploy/local.sh starts the site: PostgreSQL, Redis, S3, API server, services, workers, all on this
machine. The sandbox makes a picture in no time, so what is measured is the orchestration.
"""

import asyncio
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.race import ROOT, environment
from benchmarks.table import Table, ratio
from comfyline.stack.home import make_credentials
from comfyline.stack.ports import LOOPBACK, remember_port
from comfyline.stack.services import SANDBOX_TOKEN, basic_auth, origin
from deploy.local import DATA, Site

_JOBS, _QUICK = 600, 60
_SHARDS_EACH = 2
_LIMIT = 900.0
_PIPELINE = """\
name: workers
source: {items: [ITEMS]}
steps:
  card:
    model: google/nano-banana-2-lite/text-to-image
    input: {prompt: "Card {{ item.name }}", aspect_ratio: "21:9"}
output: {to: "s3://comfyline/workers", name: "{{ item_name }}.{{ ext }}"}
"""
_PROFILE = """\
extends: configs/profiles/site.yaml
runcomfy: {base_url: SANDBOX, in_flight: 32, submits_per_second: 1000}
"""


async def measure(*, quick: bool) -> list[Table]:
    """Run the same number of jobs with each number of workers, on a site of its own each time."""
    jobs = _QUICK if quick else _JOBS
    figures = [await _run(jobs, workers) for workers in (1, 2, 3)]
    alone = figures[0]["seconds"]
    rows = [
        (
            f"{workers} worker{'s' * (workers > 1)}",
            f"{one['seconds']:.1f}",
            f"{jobs / one['seconds']:.2f}",
            *(f"{1000 * one[of] / jobs:.0f}" for of in ("workers", "servers", "postgres")),
        )
        for workers, one in enumerate(figures, 1)
    ]
    return [
        Table(
            f"workers: {jobs} jobs, {_SHARDS_EACH} shards a worker, {os.cpu_count()} cores for all",
            (
                "side",
                "s",
                "jobs/s",
                "workers CPU ms/job",
                "Prefect CPU ms/job",
                "database CPU ms/job",
            ),
            rows,
            [
                f"1 worker ÷ {workers}, s: {ratio(alone, one['seconds'])} (above 1: more is faster)"
                for workers, one in enumerate(figures[1:], 2)
            ],
        )
    ]


async def _run(jobs: int, workers: int) -> Mapping[str, float]:
    """Start a site, run once, and return the seconds from the run's first to its last."""
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as name:
        folder = await asyncio.to_thread(Path(name).resolve)
        folder.chmod(0o711)  # PostgreSQL runs as another user where we are root
        site, project = Site(folder / "site"), folder / "project"
        _choose_ports(site, workers)
        given = _project(project, site, jobs)
        up = ("up", "--workers", str(workers), "--limit", str(_SHARDS_EACH + 1), "--apart")
        try:
            await _local(site, given, *up, "--project", str(project))
            before = _cpu(site)
            run = await _finished(site, workers * _SHARDS_EACH)
            if run["state"]["message"] != f"{jobs} jobs: {jobs} persisted":
                raise RuntimeError(run["state"]["message"])
            used = {kind: seconds - before[kind] for kind, seconds in _cpu(site).items()}
            return {"seconds": run["total_run_time"], **used}
        finally:
            await _local(site, given, "down")


def _choose_ports(site: Site, workers: int) -> None:
    """Give each server a port that no other site on this machine would choose."""
    for name in ("api-1", *DATA, *(f"worker-{number + 1}" for number in range(workers))):
        with socket.create_server((LOOPBACK, 0)) as probe:
            remember_port(site.layout.ports, name, probe.getsockname()[1])


def _project(project: Path, site: Site, jobs: int) -> dict[str, str]:
    """Make a project that is deployed to the site, and return what its workers need."""
    shutil.copytree(ROOT / "configs", project / "configs")
    for name in ("flows", "tasks"):
        (project / name).symlink_to(ROOT / name)
    deployments = (ROOT / "prefect.yaml").read_text()
    (project / "prefect.yaml").write_text(re.sub("(&profile )sandbox", r"\1bench", deployments))
    items = ", ".join(f"{{name: n{number}}}" for number in range(jobs))
    (project / "workers.yaml").write_text(_PIPELINE.replace("ITEMS", items))
    profile = _PROFILE.replace("SANDBOX", origin(site.port("sandbox")))
    (project / "configs/profiles/bench.yaml").write_text(profile)
    keys = make_credentials(site.layout.credentials)
    return environment(
        {
            "RUNCOMFY_API_TOKEN": SANDBOX_TOKEN,
            "AWS_ENDPOINT_URL_S3": origin(site.port("storage")),
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "SANDBOX_SPEED": "100",
            "SANDBOX_PIXELS": "64",
            "SANDBOX_SLOTS": "32",
        }
    )


async def _local(site: Site, given: Mapping[str, str], command: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(ROOT / "deploy/local.sh"), command, str(site.folder), *arguments),
        env=dict(given),
        stderr=asyncio.subprocess.PIPE,
    )
    said = (await process.communicate())[1].decode()
    if process.returncode:
        raise RuntimeError(said)


async def _finished(site: Site, shards: int) -> dict[str, Any]:
    """Start the pipeline's deployment and return its flow run, once it has ended."""
    client = site.client()
    auth = basic_auth(client["PREFECT_API_AUTH_STRING"])
    url, limit = client["PREFECT_API_URL"], time.monotonic() + _LIMIT
    async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=60) as http:
        found = await http.get(f"{url}/deployments/name/pipeline/pipeline")
        begin = f"{url}/deployments/{found.json()['id']}/create_flow_run"
        body = {"parameters": {"path": "workers.yaml", "shards": shards}}
        begun = await http.post(begin, json=body)
        run: dict[str, Any] = begun.raise_for_status().json()
        while run["state"]["type"] in {"SCHEDULED", "PENDING", "RUNNING"}:
            if time.monotonic() > limit:
                raise RuntimeError("the run did not end in time")
            await asyncio.sleep(0.5)
            run = (await http.get(f"{url}/flow_runs/{run['id']}")).raise_for_status().json()
    return run


def _cpu(site: Site) -> dict[str, float]:
    """Return the seconds of CPU that each kind of process has used, those that have ended too."""
    used = dict.fromkeys(("workers", "servers", "postgres", "other"), 0.0)
    kinds = {"worker": "workers", "api": "servers", "services": "servers", "postgres": "postgres"}
    for name, record in site.running().items():
        process = psutil.Process(record.pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                used[kinds.get(name.partition("-")[0], "other")] += sum(times[:4])
    return used
