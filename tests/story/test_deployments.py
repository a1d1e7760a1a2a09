"""Prefect's own way: `prefect deploy --all`, a worker, runs on a schedule and with parameters."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.story.conftest import Project

ROOT = Path(__file__).parents[2]


class Prefect:
    """Prefect's command line and API against the shared server."""

    def __init__(self, project: Project) -> None:
        self.api = project.addresses.prefect_api_url
        self.directory = project.directory
        self.environment = project.environment | {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(project.home / "prefect-client"),
            "PWD": str(project.directory),
            "DO_NOT_TRACK": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *arguments]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_DESC"}
        url = f"{self.api}/flow_runs/filter"
        found = httpx.post(url, json=body, trust_env=False).raise_for_status().json()
        return [run for run in found if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}]


@pytest.fixture
def prefect(project: Project) -> Iterator[Prefect]:
    for name in ("flows", "tasks", "prefect.yaml"):
        (project.directory / name).symlink_to(ROOT / name)
    prefect = Prefect(project)
    created = prefect("work-pool", "create", "comfyline", "--type", "process", "--overwrite")
    assert created.returncode == 0, created.stderr
    deployed = prefect("--no-prompt", "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    log = (project.directory / "worker.log").open("w")
    worker = subprocess.Popen(
        prefect.command("worker", "start", "--pool", "comfyline", "--limit", "2"),
        cwd=project.directory,
        env=prefect.environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=log,
        stderr=log,
    )
    yield prefect
    family = [worker, *psutil.Process(worker.pid).children(recursive=True)]
    for process in family:
        process.kill()
    worker.wait()
    log.close()
    prefect("work-pool", "delete", "comfyline")


def test_a_worker_runs_deployments_on_schedule_and_by_parameter(
    project: Project, prefect: Prefect
) -> None:
    wanted = ["--param", "path=configs/pipelines/office-scenes.yaml", "--param", "limit=1"]
    prompt = "an office that a worker makes"
    overrides = f'overrides=["steps.edit.input.prompt={prompt}"]'
    started = prefect("deployment", "run", "pipeline/pipeline", *wanted, "--param", overrides)
    assert started.returncode == 0, started.stderr
    missing = "path=configs/pipelines/nowhere.yaml"
    prefect("deployment", "run", "pipeline/pipeline", "--param", missing)
    scheduled = prefect("deployment", "schedule", "create", "pipeline/nightly", "--interval", "15")
    assert scheduled.returncode == 0, scheduled.stdout

    asked = project.until(lambda: found if len(found := prefect.runs("pipeline")) == 2 else None)
    nightly = project.until(lambda: prefect.runs("nightly"))

    by_state = {run["state_type"]: run for run in asked}
    assert by_state["COMPLETED"]["state"]["message"] == "2 jobs: 2 persisted"
    assert len(project.charges(prompt)) == 2
    assert "nowhere.yaml" in by_state["FAILED"]["state"]["message"]
    assert nightly[-1]["state_type"] == "COMPLETED"
    assert nightly[-1]["auto_scheduled"]

    refused = prefect("deployment", "run", "pipeline/pipeline", *wanted[:2], "--param", "limit=few")
    assert refused.returncode != 0
    assert "limit" in refused.stdout + refused.stderr


def test_every_flow_parameter_is_described() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.generate import generate
    from flows.pipeline import pipeline
    from flows.reconcile import reconcile

    for flow in (generate, pipeline, reconcile):
        for name, parameter in parameter_schema(flow).properties.items():
            assert parameter["title"], name
            assert parameter["description"], name
