"""A project that is deployed at the shared Prefect server, with a worker, and what one asks it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from prefect.workers.process import ProcessWorker

from comfyline.stack.stack import StackAddresses
from tests.conftest import prefect_home, shared_folder
from tests.story.conftest import ROOT, Project, project_at


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
        # What a parent process leaves behind that starts this in another folder, as cron does.
        self.environment["PWD"] = "/"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *arguments]

    def __call__(
        self, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.directory,
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

    def deployments(self) -> list[dict[str, Any]]:
        """All that is deployed, as the page has it."""
        found: list[dict[str, Any]] = self.ask("POST", "deployments/filter", json={})
        return found

    def start(self, name: str, **parameters: Any) -> str:
        """Starts a deployment as its button on the page does; the id of its run."""
        path = f"deployments/{self.deployment(name)}/create_flow_run"
        return str(self.ask("POST", path, json={"parameters": parameters})["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment that there have been and will be."""
        body = {"deployments": {"name": {"any_": [deployment]}}}
        found: list[dict[str, Any]] = self.ask("POST", "flow_runs/filter", json=body)
        return found

    def begun(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment that are under way, or have come to a good end."""
        found = self.runs(deployment)
        return [run for run in found if run["state_type"] in {"RUNNING", "COMPLETED"}]

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


@contextmanager
def deployed_at(
    directory: Path, stack: StackAddresses, home: Path, forks: Path
) -> Iterator[Prefect]:
    """A project that is deployed, and a worker that waits for what there is to do.

    One at a time, since they share the server and the work pool's name.
    """
    alone = FileLock(shared_folder() / "deployed.lock")
    with alone, project_at(directory, stack, home, forks) as project:
        for name in ("flows", "tasks", "prefect.yaml"):
            (directory / name).symlink_to(ROOT / name)
        prefect = Prefect(project)
        template = ProcessWorker.get_default_base_job_template()
        pool = {"name": "comfyline", "type": "process", "base_job_template": template}
        prefect.ask("POST", "work_pools/", json=pool)
        deployed = prefect("--no-prompt", "deploy", "--all")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        often = prefect.deployment("reconcile/reconcile")
        prefect.ask("POST", f"deployments/{often}/pause_deployment")
        said = directory / "worker.log"
        with said.open("w") as log:
            worker = subprocess.Popen(
                prefect.command("worker", "start", "--pool", "comfyline", "--limit", "2"),
                cwd=directory,
                env=prefect.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
                stdout=log,
                stderr=log,
            )
        prefect.worker = worker.pid
        yield prefect
        for process in (worker, *psutil.Process(worker.pid).children(recursive=True)):
            process.kill()
        worker.wait()
        assert str(stack.prefect_auth_string).partition(":")[2] not in said.read_text()
        prefect.ask("DELETE", "work_pools/comfyline")
