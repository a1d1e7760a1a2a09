"""Every alert fires at a real Prefect server, and its message arrives at a receiver of ours."""

import asyncio
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect.workers.process import ProcessWorker

from comfyline.job import JobState
from comfyline.stack.stack import ensure, stop
from tests.ended import Ended
from tests.story.conftest import PIPELINE, Project

pytestmark = pytest.mark.production

ROOT = Path(__file__).parents[2]
_OFTEN = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Where notifications go: keeps each as subject and text."""

    received: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((told["title"], told["message"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Site:
    """A deployed project at a Prefect server of its own, whose alerts are applied."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def python(self, code: str) -> None:
        """Runs a few lines in a process of their own, as a person would type them."""
        command = [sys.executable, "-c", code]
        self._run(command)

    def prefect(self, *arguments: str) -> None:
        self._run([sys.executable, "-m", "prefect", *arguments])

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            command,
            cwd=self.project.directory,
            env=self.project.environment,
            check=True,
            timeout=120,
        )

    def alerts(self, *arguments: str) -> Ended:
        return self.project.fresh("alerts", "apply", "--notify", "slack-webhook/watch", *arguments)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of a name that the server has."""
        body = {"filter": {"event": {"name": [name]}}}
        return list(self.project.prefect("POST", "events/filter", json=body)["events"])

    def message(self, *words: str) -> str:
        """The text of the message that has all these words, once it has arrived."""

        def arrived() -> str | None:
            told = [f"{subject}\n{text}" for subject, text in _Receiver.received]
            return next((one for one in told if all(word in one for word in words)), None)

        return str(self.project.until(arrived))


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    """The address of the receiver, as apprise writes it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    # A notification is sent once, and given up after 4 s by default: a busy machine takes longer.
    yield f"json://127.0.0.1:{server.server_port}/?cto=30&rto=30"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, receiver: str) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("alerts") / "home"
    stack = asyncio.run(
        ensure(home, ("prefect", "storage", "sandbox"), model_dirs=[ROOT / "configs/models"])
    )
    directory = home.parent / "project"
    project = Project(directory, home, home, stack)
    for name in ("flows", "tasks", "comfyline", "prefect.yaml"):
        (directory / name).symlink_to(ROOT / name)
    # Not in three nights, but in this test.
    file = directory / "configs/automations/comfyline.yaml"
    text = file.read_text()
    for long, short in (("within: 9m ", "within: 65s "), ("within: 26h", "within: 20s")):
        assert long in text
        text = text.replace(long, short)
    file.write_text(text)
    site = Site(project)
    template = ProcessWorker.get_default_base_job_template()
    pool = {"name": "comfyline", "type": "process", "base_job_template": template}
    project.prefect("POST", "work_pools/", json=pool)
    site.prefect("--no-prompt", "deploy", "--all")
    site.python(
        "from prefect.blocks.notifications import SlackWebhook; "
        f'SlackWebhook(url="{receiver}").save("watch")'
    )
    yield site
    asyncio.run(stop(home))


@pytest.fixture(scope="module")
def applied(site: Site) -> Ended:
    return site.alerts()


@pytest.fixture(scope="module")
def dead_run(site: Site, applied: Ended) -> str:
    """A flow run whose process was killed after its first heartbeats; its id."""
    assert applied.code == 0, applied.stderr
    project = site.project
    hold = {"on": "generation", "kind": "delay", "seconds": 30, "times": 9}
    project.sandbox("POST", "faults", json=hold)
    process = subprocess.Popen(
        [sys.executable, "-m", "comfyline.cli", "run", PIPELINE, "--limit", "1"],
        cwd=project.directory,
        env=project.environment | _OFTEN,
        stderr=subprocess.DEVNULL,
    )

    heartbeat = project.until(lambda: site.events("prefect.flow-run.heartbeat"))[0]
    run_id = heartbeat["resource"]["prefect.resource.id"].rpartition(".")[2]
    project.until(lambda: len(project.sandbox("GET", "account")["requests"]) == 2)
    project.until(lambda: all(one.request_id for one in project.attempts()))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    project.sandbox("DELETE", "faults")
    return str(run_id)


@pytest.mark.usefixtures("dead_run")
def test_alerts_are_created_once_and_a_second_time_changes_nothing(
    site: Site, applied: Ended
) -> None:
    lines = applied.stdout.splitlines()
    assert len(lines) >= 7
    assert all(line.startswith("+ comfyline: ") for line in lines)
    again = site.alerts("--prune", "--json")
    assert {one["action"] for one in json.loads(again.stdout)} == {"unchanged"}, again.stdout


@pytest.fixture(scope="module")
def bad_run(site: Site) -> Ended:
    """A run of two jobs under a limit: one fails, of the other's submission no answer arrives."""
    project = site.project
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-after"})
    project.sandbox("POST", "faults", json={"on": "generation", "kind": "fail", "times": 2})
    wanted = "steps.edit.input.prompt=an office that is not to be"
    ended = project.fresh(
        *("run", PIPELINE, "--limit", "1", "--max-cost", "0.30", "--set", wanted, "--json")
    )
    project.sandbox("DELETE", "faults")
    assert (ended.json["failed"], ended.json["in_doubt"]) == (1, 1), ended.stderr
    return ended


def test_a_run_that_failed_is_told_with_its_reason_and_its_page(site: Site, bad_run: Ended) -> None:
    told = site.message(f"/runs/flow-run/{bad_run.json['run_id']}", "Failed")
    assert "1 failed" in told
    assert "comfyline reconcile" in told


def test_a_submission_in_doubt_is_told_with_the_command_that_resolves_it(
    site: Site, bad_run: Ended
) -> None:
    [doubt] = [one for one in bad_run.json["errors"] if one["kind"] == "in-doubt"]
    told = site.message(f"comfyline resolve {doubt['job'][:12]}")
    assert told.startswith("office-scenes: a submission is in doubt\n")
    assert "google/nano-banana/pro/edit" in told
    assert bad_run.json["run_id"] in told


def test_most_of_a_budget_is_told_once(site: Site, bad_run: Ended) -> None:
    subject = "office-scenes: most of its budget is spent"
    site.project.until(lambda: site.events("comfyline.run.budget"))
    told = site.message(subject, bad_run.json["run_id"])
    assert "0.28 of 0.30 USD a run" in told
    assert [title for title, _ in _Receiver.received].count(subject) == 1


def test_a_night_without_a_completed_run_is_told_by_prefect_itself(site: Site) -> None:
    assert "worker start" in site.message("pipeline/nightly has not completed for 26 hours")


@pytest.fixture(scope="module")
def dead_submission(site: Site, applied: Ended) -> str:
    """The resource of a job whose process was killed while it submitted it."""
    assert applied.code == 0, applied.stderr
    project, prompt = site.project, "an office between two worlds"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "delay", "seconds": 60})
    command = ["run", PIPELINE, "--limit", "1", "--set", "matrix.aspect_ratio=[1:1]"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "comfyline.cli",
            *command,
            "--set",
            f"steps.edit.input.prompt={prompt}",
        ],
        cwd=project.directory,
        env=project.environment,
        stderr=subprocess.DEVNULL,
    )

    def submitting() -> list[str]:
        return [
            one.checked.key
            for one in project.attempts()
            if one.state is JobState.SUBMITTING and one.checked.job.inputs["prompt"] == prompt
        ]

    [key] = project.until(submitting)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    project.sandbox("DELETE", "faults")
    return f"comfyline.job.{key[:12]}"


@pytest.mark.usefixtures("applied")
def test_a_reconcile_that_fails_every_time_is_told_once(site: Site) -> None:
    site.python(
        "import asyncio; from flows.reconcile import reconcile\n"
        "for _ in range(2): asyncio.run(reconcile(profile='nowhere', return_state=True))"
    )

    def failures() -> int:
        events = site.events("prefect.flow-run.Failed")
        names = [one["resource"]["prefect.resource.name"] for one in events]
        return names.count("reconcile")

    site.project.until(lambda: failures() == 2)
    assert "nowhere" in site.message("reconcile: Failed")
    assert [subject for subject, _ in _Receiver.received].count("reconcile: Failed") == 1


@pytest.mark.usefixtures("dead_run")
def test_what_reconcile_finds_is_told_once(site: Site, dead_submission: str) -> None:
    project = site.project
    with closing(sqlite3.connect(project.home / "ledger.sqlite3")) as ledger, ledger:
        old = f"{datetime.now(UTC) - timedelta(days=5, hours=12):%Y-%m-%d %H:%M:%S.%f}"
        # What the killed run has left behind.
        left = "state IN ('submitted', 'in_queue', 'in_progress', 'completed')"
        aged = ledger.execute(f"UPDATE attempts SET submitted_at = ? WHERE {left}", [old])  # noqa: S608
        assert aged.rowcount == 2
    shelf = project.directory / "outputs"
    shelf.write_text("a file where a folder should be")
    soon = datetime.now(UTC) + timedelta(seconds=2)
    schedule = {"interval": 86400, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    deployment = project.prefect("GET", "deployments/name/pipeline/pipeline")["id"]
    once_a_day = [{"schedule": schedule, "active": True}]
    project.prefect("POST", f"deployments/{deployment}/schedules", json=once_a_day)
    time.sleep(4)
    look = (
        "import asyncio; from flows.reconcile import reconcile; "
        "asyncio.run(reconcile(profile='sandbox', window_hours=1 / 3600, return_state=True))"
    )
    site.python(look)
    told = site.message("pipeline/pipeline has not completed")
    assert f"{soon:%Y-%m-%d %H:%M} UTC" in told
    assert "/runs/flow-run/" in told
    assert "the oldest is 5.5 days old" in site.message("2 paid results are not stored")

    # The server writes events down every few seconds; the next look is 15 minutes away as a rule.
    project.until(lambda: site.events("comfyline.pipeline.missed"))
    project.until(lambda: len(site.events("comfyline.job.in_doubt")) == 2)
    shelf.unlink()
    site.python(look)
    # What the second look tells last.
    project.until(lambda: site.events("comfyline.run.completed"))

    assert len(site.events("comfyline.pipeline.missed")) == 1
    doubts = [
        one["resource"]["prefect.resource.id"] for one in site.events("comfyline.job.in_doubt")
    ]
    assert doubts.count(dead_submission) == 1
    assert len(doubts) == 2


def test_a_run_whose_process_died_is_crashed_told_and_reconciled(site: Site, dead_run: str) -> None:
    run = f"flow_runs/{dead_run}"
    site.project.until(lambda: site.project.prefect("GET", run)["state_type"] == "CRASHED", 150)
    assert "Crashed" in site.message(f"/runs/flow-run/{dead_run}")

    def started() -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": ["reconcile"]}}}
        runs = site.project.prefect("POST", "flow_runs/filter", json=body)
        return [one for one in runs if not one["auto_scheduled"]]

    assert site.project.until(started)
