"""Prefect's own way: `prefect deploy --all`, a worker, runs on a schedule and with parameters."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.shards import ShardRow
from comfyline.plan.shards import shard_number
from comfyline.services import open_ledger
from comfyline.stack.stack import StackAddresses
from tests.conftest import EDIT
from tests.story.conftest import PIPELINE, ROOT, Project
from tests.story.deployed import Prefect, deployed_at


@pytest.fixture(scope="module")
def prefect(
    tmp_path_factory: pytest.TempPathFactory, stack: StackAddresses, stack_home: Path, forks: Path
) -> Iterator[Prefect]:
    directory = tmp_path_factory.mktemp("deployed") / "project"
    with deployed_at(directory, stack, stack_home, forks) as prefect:
        yield prefect


def test_what_is_deployed_runs_in_the_folder_from_which_it_was_deployed(prefect: Prefect) -> None:
    steps = [step for one in prefect.deployments() for step in one["pull_steps"]]

    assert len(steps) == len(prefect.deployments()) > 3
    assert {path for step in steps for inputs in step.values() for path in inputs.values()} == {
        str(prefect.directory.resolve())
    }


def test_the_form_of_a_deployment_says_what_each_value_is_and_offers_what_there_is(
    prefect: Prefect,
) -> None:
    forms = {one["name"]: one["parameter_openapi_schema"] for one in prefect.deployments()}
    offered = {
        kind["title"]: kind["enum"]
        for form in forms.values()
        for value in form["properties"].values()
        for kind in value.get("anyOf", ())
        if "enum" in kind
    }

    for form in forms.values():
        for name, value in form["properties"].items():
            assert value["title"] != name
            assert value["description"], name
    there = sorted(map(str, (ROOT / "configs/pipelines").glob("*.yaml")))
    assert [str(ROOT / path) for path in offered["In configs/pipelines"]] == there
    assert {"production", "sandbox"} <= {*offered["In configs/profiles"]}
    assert EDIT in offered["In configs/models"]
    # Anything else is taken as well: a profile in another folder, a model that is new.
    assert str(forms).count("'Another file'") >= len(forms)


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 0), ("limit", "few"), ("date", "2026-02-30"), ("max_cost_usd", -1), ("path", None)],
)
def test_a_wrong_value_starts_no_run(prefect: Prefect, name: str, value: object) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        prefect.start("pipeline/pipeline", **{"path": PIPELINE, name: value})

    assert refused.value.response.status_code == httpx.codes.CONFLICT
    assert name in refused.value.response.text


def test_a_worker_runs_on_schedule_and_by_parameter_and_again_from_the_page(
    prefect: Prefect,
) -> None:
    project, prompt = prefect.project, "an office that has nowhere to go"
    nightly = f"deployments/{prefect.deployment('pipeline/nightly')}"
    soon = [{"schedule": {"interval": 15}, "active": True}]
    [schedule] = prefect.ask("POST", f"{nightly}/schedules", json=soon)
    [by_night] = project.until(lambda: prefect.begun("nightly"))
    prefect.ask("DELETE", f"{nightly}/schedules/{schedule['id']}")
    shelf = project.directory / "shelf"
    shelf.write_text("a file where a folder should be")
    overrides = [f"steps.edit.input.prompt={prompt}", "output.to=shelf/office"]
    run_id = prefect.start("pipeline/pipeline", path=PIPELINE, limit=1, overrides=overrides)

    prefect.ended(run_id, "FAILED")
    assert len(project.charges(prompt)) == 2
    shelf.unlink()
    prefect.retry(run_id)

    assert prefect.ended(run_id, "COMPLETED") == "2 jobs: 2 persisted"
    assert len(list(shelf.glob("office/*.png"))) == 2
    assert len(project.charges(prompt)) == 2
    tasks = project.until(lambda: prefect.cached_tasks(run_id, 2))
    assert {name.rpartition(" · ")[2] for name in tasks} == {"fetch"}
    assert prefect.ended(by_night["id"], "COMPLETED").startswith("10 jobs")
    assert by_night["auto_scheduled"]


@pytest.mark.production
def test_a_worker_gets_the_project_from_git(prefect: Prefect, tmp_path: Path) -> None:
    project, prompt = prefect.project, "an office out of a repository"
    repository = tmp_path / "content.git"
    for name in ("flows", "tasks", "configs"):
        shutil.copytree(ROOT / name, repository / name)
    text = (ROOT / "prefect.yaml").read_text()
    for old, new in (
        ("pull: *folder", "pull: *git"),
        ("https://git.example.org/team/content.git", repository.as_uri()),
        ("- name: pipeline", "- name: from-git"),
    ):
        assert old in text
        text = text.replace(old, new)
    (repository / "prefect.yaml").write_text(text)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "."),
        (*who, "commit", "-q", "-m", "first"),
    ):
        subprocess.run(["git", *words], cwd=repository, check=True)
    deployed = prefect("--no-prompt", "deploy", "-n", "from-git", cwd=repository)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    stays = project.directory / "outputs/from-git"
    overrides = [f"steps.edit.input.prompt={prompt}", f"output.to={stays}"]

    run_id = prefect.start("pipeline/from-git", path=PIPELINE, limit=1, overrides=overrides)

    assert prefect.ended(run_id, "COMPLETED") == "2 jobs: 2 persisted"
    assert len([*stays.glob("*.png")]) == len(project.charges(prompt)) == 2
    prefect.ask("DELETE", f"deployments/{prefect.deployment('pipeline/from-git')}")


@pytest.mark.thorough
def test_a_run_is_cancelled_from_the_page(prefect: Prefect) -> None:
    project, slow = prefect.project, "an office that is taken back"
    hold = {"on": "generation", "kind": "delay", "seconds": 20, "times": 4}
    project.sandbox("POST", "faults", json=hold)
    overrides = [f"steps.edit.input.prompt={slow}"]
    run_id = prefect.start("pipeline/pipeline", path=PIPELINE, overrides=overrides)
    project.until(lambda: len(project.accepted(slow)) == 10)
    prefect("flow-run", "cancel", run_id)
    project.until(lambda: prefect.state(run_id) == "CANCELLED")

    states = [row["status"] for row in project.charges(slow)]
    assert states.count("cancelled") == 6
    assert {attempt.state for attempt in project.accepted(slow)} <= {
        JobState.CANCELLED,
        JobState.IN_PROGRESS,
        JobState.IN_QUEUE,
        JobState.SUBMITTED,
    }
    project.sandbox("DELETE", "faults")


@pytest.mark.thorough
def test_a_retried_run_keeps_its_id_its_budget_and_what_it_has_made(prefect: Prefect) -> None:
    project, prompt = prefect.project, "an office that is tried three times"
    three = [f"steps.edit.input.prompt={prompt}", "matrix.aspect_ratio=[1:1, 16:9, 3:2]"]
    fail = {"on": "generation", "kind": "fail"}
    hold = {"on": "generation", "kind": "delay", "seconds": 45, "times": 9}
    project.sandbox("POST", "faults", json=fail)
    # Two of three fit; one of them is paid for, and the other fails and costs nothing.
    run_id = prefect.start(
        "pipeline/pipeline",
        path=PIPELINE,
        limit=1,
        overrides=three,
        max_cost_usd=0.30,
        refresh=True,
    )
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


SHARDED = """\
name: NAME
source: {items: [NAMES]}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: "PROMPT {{ item.name }}"
      image_urls: [configs/samples/cat.jpg]
      aspect_ratio: "21:9"
  sheet:
    collect: true
    model: google/nano-banana/pro/edit
    input: {prompt: "PROMPT sheet", image_urls: "{{ steps.edit.images[:3] }}"}
output: {to: outputs/NAME, name: "{{ item_name }}-{{ step }}.{{ ext }}"}
limits: {in_flight: 8, shard: 5}
"""


class Sharded:
    """A pipeline of twelve items, in shards of about five, and one job that needs all of them."""

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name, self.path = project, name, f"{name}.yaml"
        names = ", ".join(f"{{name: n{number}}}" for number in range(12))
        text = SHARDED.replace("NAMES", names).replace("PROMPT", name).replace("NAME", name)
        (project.directory / self.path).write_text(text)

    def accepted(self) -> list[Attempt]:
        every = self.project.attempts()
        return [one for one in every if one.checked.job.pipeline == self.name and one.request_id]

    def charges(self) -> list[dict[str, Any]]:
        rows = self.project.sandbox("GET", "account")["requests"]
        return [row for row in rows if row["input"]["prompt"].startswith(f"{self.name} ")]

    def pictures(self) -> list[Path]:
        return list(self.project.directory.glob(f"outputs/{self.name}/*.png"))


def shards_of(project: Project, run_id: str) -> list[ShardRow]:
    ledger = open_ledger(project.ledger_url, None, reading=True)
    try:
        return list(asyncio.run(ledger.shards.of_run(run_id)))
    finally:
        ledger.close()


def pid_of(holder: str) -> int:
    return int(holder.partition("/")[0].rpartition(":")[2])


@contextmanager
def another_worker(prefect: Prefect) -> Iterator[None]:
    worker = subprocess.Popen(
        prefect.command("worker", "start", "--pool", "comfyline", "--limit", "2"),
        cwd=prefect.directory,
        env=prefect.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        for process in (worker, *psutil.Process(worker.pid).children(recursive=True)):
            process.kill()
        worker.wait()


@pytest.mark.thorough
def test_workers_share_a_run_and_one_that_dies_costs_nothing(prefect: Prefect) -> None:
    project = prefect.project
    pipeline = Sharded(project, "many-hands")
    hold = {"on": "generation", "kind": "delay", "seconds": 15, "times": 8}
    project.sandbox("POST", "faults", json=hold)
    with another_worker(prefect):
        run_id = prefect.start("pipeline/pipeline", path=pipeline.path)

        def largest() -> ShardRow | None:
            row = next((one for one in shards_of(project, run_id) if one.number == 2), None)
            return row if row and row.is_running and len(pipeline.accepted()) > 5 else None

        os.kill(pid_of(str(project.until(largest).holder)), signal.SIGKILL)
        project.until(lambda: prefect.state(run_id) == "COMPLETED", 300)
        message = prefect.ended(run_id, "COMPLETED")

    assert message == "13 jobs: 13 persisted"
    assert len(pipeline.charges()) == len(pipeline.pictures()) == 13
    assert {one.run_id for one in pipeline.accepted()} == {run_id}
    summary = json.loads((project.home / "runs" / run_id / "summary.json").read_text())
    assert (summary["persisted"], summary["submitted"], summary["reused"]) == (13, 13, 0)
    assert shards_of(project, run_id) == []


@pytest.mark.production
def test_a_shard_is_handed_over_another_cancelled_and_their_run_ended_and_taken_up_again(
    prefect: Prefect,
) -> None:
    project = prefect.project
    pipeline = Sharded(project, "relay")
    hold = {"on": "generation", "kind": "delay", "seconds": 20, "times": 8}
    project.sandbox("POST", "faults", json=hold)

    def rows() -> list[ShardRow]:
        return shards_of(project, run_id)

    def halfway() -> list[ShardRow] | None:
        begun = [row for row in rows() if row.is_running]
        return begun if len(begun) > 1 and len(pipeline.accepted()) > 4 else None

    with another_worker(prefect):
        run_id = prefect.start("pipeline/pipeline", path=pipeline.path, shards=5)
        handed, *_ = project.until(halfway, 120)
        left_out = next(row for row in rows() if row.is_waiting and row.flow_run_id)
        prefect("flow-run", "cancel", str(left_out.flow_run_id))
        cancelled = {f"n{n}" for n in range(12) if shard_number(f"n{n}", 5) == left_out.number}
        # What Ctrl-C in the terminal of its worker sends to it.
        os.kill(pid_of(str(handed.holder)), signal.SIGINT)
        project.until(lambda: next(r for r in rows() if r.number == handed.number).tries == 2)
        project.until(lambda: next(r for r in rows() if r.number == left_out.number).has_ended)
        process = prefect.ask("GET", f"flow_runs/{run_id}")["infrastructure_pid"]
        parent = psutil.Process(int(process.rpartition(":")[2]))
        for one in (parent, *parent.children(recursive=True)):
            one.terminate()
        message = prefect.ended(run_id, "FAILED")
        project.until(lambda: not parent.is_running())
        assert "its process was told to end" in message
        assert prefect.ask("GET", f"flow_runs/{run_id}")["state_name"] == "Unfinished"

        prefect.retry(run_id)
        project.until(lambda: prefect.state(run_id) in {"FAILED", "COMPLETED"}, 240)
        message = prefect.ended(run_id, "FAILED")
        made = 12 - len(cancelled)
        assert message.startswith(f"13 jobs: {made} persisted, "), message
        assert len(pipeline.charges()) == len(pipeline.pictures()) == made
        assert not cancelled & {one.checked.job.item for one in pipeline.accepted()}
        prefect.retry(run_id)
        project.until(lambda: prefect.state(run_id) == "COMPLETED", 120)

    assert prefect.ended(run_id, "COMPLETED").startswith("13 jobs: ")
    assert len(pipeline.charges()) == len(pipeline.pictures()) == 13
    # Nothing was taken back at RunComfy from a shard that others went on with.
    assert {row["status"] for row in pipeline.charges()} == {"completed"}
    assert {one.run_id for one in pipeline.accepted()} == {run_id}


def test_what_no_worker_can_make_the_run_makes_itself_within_its_budget(prefect: Prefect) -> None:
    project = prefect.project
    pipeline = Sharded(project, "seasonal")
    # The workers' environment lacks it.
    text = (project.directory / pipeline.path).read_text()
    (project.directory / pipeline.path).write_text(f"env: [SEASON]\n{text}")

    ended = project.comfyline(
        *("run", pipeline.path, "--shards", "2", "--max-cost", "0.70", "--json"), SEASON="winter"
    )

    assert ended.code == 1
    assert "shard 1/2" in ended.stderr
    assert "this process makes it" in ended.stderr
    assert (ended.json["persisted"], ended.json["submitted"], ended.json["skipped"]) == (5, 5, 1)
    assert {error["kind"] for error in ended.json["errors"]} == {"over-budget", "skipped"}
    assert ended.json["failed"] == 7
    assert len(pipeline.charges()) == len(pipeline.pictures()) == 5


@pytest.mark.thorough
def test_shards_hold_the_budget_of_their_run_and_stop_with_it(prefect: Prefect) -> None:
    project = prefect.project
    thrifty, stopped = Sharded(project, "thrifty"), Sharded(project, "stopped")
    run_id = prefect.start("pipeline/pipeline", path=thrifty.path, max_cost_usd=0.70)
    message = prefect.ended(run_id, "FAILED")
    assert message == "13 jobs: 5 persisted, 7 failed (over-budget: 7), 1 skipped"
    assert len(thrifty.charges()) == len(thrifty.pictures()) == 5

    hold = {"on": "generation", "kind": "delay", "seconds": 30, "times": 12}
    project.sandbox("POST", "faults", json=hold)
    run_id = prefect.start("pipeline/pipeline", path=stopped.path)
    project.until(stopped.accepted)
    project.comfyline("cancel", "--run", run_id)
    assert "comfyline cancel" in prefect.ended(run_id, "CANCELLED")
    charged = len(stopped.charges())
    assert charged == len(stopped.accepted()) < 12
    # What the run has left is no shard of anybody's.
    assert shards_of(project, run_id) == []
    project.sandbox("DELETE", "faults")
