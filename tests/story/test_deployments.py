"""Prefect's own way: `prefect deploy --all`, a worker, runs on a schedule and with parameters."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.workers.process import ProcessWorker

from comfyline.job import JobState
from tests.conftest import prefect_home
from tests.story.conftest import Project

ROOT = Path(__file__).parents[2]


class Prefect:
    """Prefect's command line and API against the shared server."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.directory = project.directory
        self.worker = 0
        # As a shell has it after `eval "$(comfyline env)"`, and nothing else besides.
        exports = project.comfyline("env", COMFYLINE_HOME=str(prefect_home())).stdout
        shell = subprocess.run(
            ["sh", "-c", f"{exports}env -0"],
            cwd=project.directory,
            env=project.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        pairs = (pair.partition("=") for pair in shell.stdout.split("\0") if pair)
        self.environment = {name: value for name, _, value in pairs}
        self.environment["COMFYLINE_HOME"] = str(project.home)

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

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """One call of the API."""
        return self.project.prefect(method, path, **more)

    def deployment(self, name: str) -> str:
        """The id of a deployment by its name, such as `pipeline/nightly`."""
        return str(self.ask("GET", f"deployments/name/{name}")["id"])

    def start(self, name: str, **parameters: Any) -> None:
        """Starts a deployment as its button on the page does."""
        path = f"deployments/{self.deployment(name)}/create_flow_run"
        self.ask("POST", path, json={"parameters": parameters})

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_DESC"}
        found = self.ask("POST", "flow_runs/filter", json=body)
        return [run for run in found if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}]

    def set_state(self, run_id: str, state: dict[str, Any]) -> None:
        body = {"state": state, "force": True}
        self.ask("POST", f"flow_runs/{run_id}/set_state", json=body)

    def state(self, run_id: str) -> str:
        return str(self.ask("GET", f"flow_runs/{run_id}")["state_type"])

    def ended(self, run_id: str, state: str) -> str:
        """Waits until a flow run has ended so, and its process too; its state's message."""
        self.project.until(lambda: self.state(run_id) == state)
        # A worker that sees a run again while the run's process still ends gives up altogether.
        self.project.until(lambda: not psutil.Process(self.worker).children())
        return str(self.ask("GET", f"flow_runs/{run_id}")["state"]["message"])

    def retry(self, run_id: str) -> None:
        """What the button `Retry` of the page does."""
        again = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        self.set_state(run_id, again)

    def cached_tasks(self, run_id: str, how_many: int) -> list[str] | None:
        """The names of a flow run's task runs that show as Cached, once there are so many."""
        body = {
            "flow_runs": {"id": {"any_": [run_id]}},
            "task_runs": {"state": {"name": {"any_": ["Cached"]}}},
        }
        found = self.ask("POST", "task_runs/filter", json=body)
        return [run["name"] for run in found] if len(found) >= how_many else None


@pytest.fixture
def prefect(project: Project) -> Iterator[Prefect]:
    for name in ("flows", "tasks", "prefect.yaml"):
        (project.directory / name).symlink_to(ROOT / name)
    prefect = Prefect(project)
    template = ProcessWorker.get_default_base_job_template()
    pool = {"name": "comfyline", "type": "process", "base_job_template": template}
    prefect.ask("POST", "work_pools/", json=pool)
    deployed = prefect("--no-prompt", "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    log = (project.directory / "worker.log").open("w")
    worker = subprocess.Popen(
        prefect.command("worker", "start", "--pool", "comfyline", "--limit", "2"),
        cwd=project.directory,
        env=prefect.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
        stdout=log,
        stderr=log,
    )
    prefect.worker = worker.pid
    yield prefect
    family = [worker, *psutil.Process(worker.pid).children(recursive=True)]
    for process in family:
        process.kill()
    worker.wait()
    log.close()
    password = str(project.stack.prefect_auth_string).partition(":")[2]
    assert password not in (project.directory / "worker.log").read_text()
    prefect.ask("DELETE", "work_pools/comfyline")


def test_a_worker_runs_deployments_on_schedule_and_by_parameter(
    project: Project, prefect: Prefect
) -> None:
    wanted = ["--param", "path=configs/pipelines/office-scenes.yaml", "--param", "limit=1"]
    before = {run["id"] for run in prefect.runs("pipeline")}
    prompt = "an office that a worker makes"
    overrides = f'overrides=["steps.edit.input.prompt={prompt}"]'
    started = prefect("deployment", "run", "pipeline/pipeline", *wanted, "--param", overrides)
    assert started.returncode == 0, started.stderr
    prefect.start("pipeline/pipeline", path="configs/pipelines/nowhere.yaml")
    often = [{"schedule": {"interval": 15}, "active": True}]
    prefect.ask(
        "POST", f"deployments/{prefect.deployment('pipeline/nightly')}/schedules", json=often
    )

    asked = project.until(
        lambda: (
            mine
            if len(mine := [run for run in prefect.runs("pipeline") if run["id"] not in before])
            == 2
            else None
        )
    )
    nightly = project.until(lambda: prefect.runs("nightly"))

    by_state = {run["state_type"]: run for run in asked}
    assert by_state["COMPLETED"]["state"]["message"] == "2 jobs: 2 persisted"
    assert len(project.charges(prompt)) == 2
    assert "nowhere.yaml" in by_state["FAILED"]["state"]["message"]
    assert nightly[-1]["state_type"] == "COMPLETED"
    assert nightly[-1]["auto_scheduled"]

    with pytest.raises(httpx.HTTPStatusError) as refused:
        prefect.start("pipeline/pipeline", path="configs/pipelines/office-scenes.yaml", limit="few")
    assert "limit" in refused.value.response.text


def test_a_run_is_retried_from_the_page_and_cancelled_there(
    project: Project, prefect: Prefect
) -> None:
    prompt = "an office that has nowhere to go"
    path = "configs/pipelines/office-scenes.yaml"
    overrides = [f"steps.edit.input.prompt={prompt}", "output.to=shelf/office"]
    shelf = project.directory / "shelf"
    shelf.write_text("a file where a folder should be")
    before = {run["id"] for run in prefect.runs("pipeline")}
    prefect.start("pipeline/pipeline", path=path, limit=1, overrides=overrides)
    [failed] = project.until(
        lambda: [run for run in prefect.runs("pipeline") if run["id"] not in before]
    )
    assert failed["state_type"] == "FAILED", failed["state"]["message"]
    assert len(project.charges(prompt)) == 2

    shelf.unlink()
    prefect.ended(failed["id"], "FAILED")
    prefect.retry(failed["id"])
    done = project.until(
        lambda: [
            run
            for run in prefect.runs("pipeline")
            if run["id"] == failed["id"] and run["state_type"] == "COMPLETED"
        ]
    )

    assert done
    assert len(list(shelf.glob("office/*.png"))) == 2
    assert len(project.charges(prompt)) == 2
    tasks = project.until(lambda: prefect.cached_tasks(failed["id"], 2))
    assert {name.rpartition(" · ")[2] for name in tasks} == {"fetch"}

    slow = "an office that is taken back"
    hold = {"on": "generation", "kind": "delay", "seconds": 20, "times": 4}
    project.sandbox("POST", "faults", json=hold)
    prefect.start("pipeline/pipeline", path=path, overrides=[f"steps.edit.input.prompt={slow}"])
    accepted = project.until(lambda: found if len(found := project.accepted(slow)) == 10 else None)
    prefect("flow-run", "cancel", accepted[0].run_id)
    project.until(lambda: prefect.state(accepted[0].run_id) == "CANCELLED")

    states = [row["status"] for row in project.charges(slow)]
    assert states.count("cancelled") == 6
    assert {attempt.state for attempt in project.accepted(slow)} <= {
        JobState.CANCELLED,
        JobState.IN_PROGRESS,
        JobState.IN_QUEUE,
        JobState.SUBMITTED,
    }


def test_a_retried_run_keeps_its_id_its_budget_and_what_it_has_made(
    project: Project, prefect: Prefect
) -> None:
    prompt = "an office that is tried three times"
    three = [f"steps.edit.input.prompt={prompt}", "matrix.aspect_ratio=[1:1, 16:9, 3:2]"]
    fail = {"on": "generation", "kind": "fail"}
    hold = {"on": "generation", "kind": "delay", "seconds": 45, "times": 9}
    project.sandbox("POST", "faults", json=fail)
    # Two of three fit; one of them is paid for, and the other fails and costs nothing.
    prefect.start(
        "pipeline/pipeline",
        path="configs/pipelines/office-scenes.yaml",
        limit=1,
        overrides=three,
        max_cost_usd=0.30,
        refresh=True,
    )
    run_id = project.until(lambda: project.accepted(prompt))[0].run_id
    told = prefect.ended(run_id, "FAILED")
    assert "over-budget" in told
    tried = project.accepted(prompt)

    def paid() -> int:
        return len([row for row in project.charges(prompt) if row["charge_usd"]])

    def waiting() -> bool:
        now = project.accepted(prompt)
        return len(now) > len(tried) and now[0].state is JobState.IN_PROGRESS

    assert paid() in {1, 2}
    project.sandbox("POST", "faults", json=hold)
    prefect.retry(run_id)
    project.until(waiting)
    cancelled = project.comfyline("cancel", "--run", run_id)
    assert "comfyline cancel" in prefect.ended(run_id, "CANCELLED"), cancelled.stderr

    prefect.retry(run_id)
    project.until(lambda: prefect.state(run_id) == "RUNNING")
    prefect("flow-run", "cancel", run_id)
    prefect.ended(run_id, "CANCELLED")

    # One more fitted under the limit in all tries together.
    assert len(project.accepted(prompt)) == len(tried) + 1
    assert {one.run_id for one in project.accepted(prompt)} == {run_id}
    assert [one.name for one in (project.home / "runs").glob(f"{run_id}*")] == [run_id]
    summary = json.loads((project.home / "runs" / run_id / "summary.json").read_text())
    assert (summary["run_id"], summary["submitted"]) == (run_id, len(tried) + 1)
    project.until(lambda: paid() == 2)


def test_every_flow_parameter_is_described() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.generate import generate
    from flows.pipeline import pipeline
    from flows.reconcile import reconcile

    for flow in (generate, pipeline, reconcile):
        for name, parameter in parameter_schema(flow).properties.items():
            assert parameter["title"], name
            assert parameter["description"], name
