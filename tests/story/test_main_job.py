"""The main job as a new user meets it: five photographs, two formats, ten pictures."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyline.stack.stack import StackAddresses
from tests.conftest import Sandbox, ask_prefect, prefect_home, prefect_variables
from tests.ended import Ended
from tests.story.conftest import PIPELINE, Project, project_at

KEYS = [
    "run_id",
    "pipeline",
    "jobs",
    "persisted",
    "reused",
    "failed",
    "cancelled",
    "in_doubt",
    "submitted",
    "skipped",
    "unfinished",
    "cost_usd",
    "estimate_usd",
    "cost_unknown",
    "seconds",
    "report",
    "index",
    "outputs",
    "errors",
]
OFFICE = "an office in the first story"
SQUARE = "matrix.aspect_ratio=[1:1]"
STAGES = ["validate", "upload-inputs", "submit", "poll", "fetch", "persist"]


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def prefect(stack: StackAddresses, path: str, **body: Any) -> Any:
    method, asked = ("POST", {"json": body}) if body else ("GET", {})
    return ask_prefect(stack, method, path, **asked).raise_for_status().json()


@dataclass(frozen=True)
class Morning:
    """The first run on a machine where nothing is set, and all that it left."""

    project: Project
    ended: Ended
    server_log: str


@pytest.fixture(scope="module")
def morning(
    tmp_path_factory: pytest.TempPathFactory, stack: StackAddresses, forks: Path
) -> Iterator[Morning]:
    """The main job in the home of the Prefect server, by a process of its own."""
    log, directory = prefect_home() / "logs/prefect.log", tmp_path_factory.mktemp("main")
    before = len(log.read_text())
    with project_at(directory / "project", stack, prefect_home(), forks) as project:
        for name in prefect_variables(stack):
            del project.environment[name]
        wanted = f"--set=steps.edit.input.prompt={OFFICE}"
        ended = project.fresh("run", PIPELINE, wanted, "--json")
        assert ended.code == 0, ended.stderr
        yield Morning(project, ended, log.read_text()[before:])


def test_ten_pictures_come_out_of_five_photographs(morning: Morning) -> None:
    ended, summary = morning.ended, morning.ended.json
    assert list(summary) == KEYS
    counts = {key: summary[key] for key in ("jobs", "persisted", "reused", "submitted", "failed")}
    assert counts == {"jobs": 10, "persisted": 10, "reused": 0, "submitted": 10, "failed": 0}
    assert summary["cost_usd"] == summary["estimate_usd"] == pytest.approx(1.40)
    assert (summary["cost_unknown"], summary["errors"]) == (0, [])

    shapes = Counter()
    for output in summary["outputs"]:
        path = local(output["uri"])
        with Image.open(path) as picture:
            picture.load()
            shapes[picture.size] += 1
        assert path.stat().st_size == output["bytes"]
        sidecar = json.loads(path.with_name(path.name + ".json").read_text())
        assert sidecar["job"] == output["job"]
        assert sidecar["output"]["sha256"] == output["sha256"]
        assert sidecar["cost_usd"] == sidecar["estimate_usd"] == 0.14
        assert list(sidecar["timestamps"])[-1] == "persisted"
    assert sorted(shapes.values()) == [5, 5]

    rows = [json.loads(line) for line in Path(summary["index"]).read_text().splitlines()]
    assert [row["uri"] for row in rows] == [one["uri"] for one in summary["outputs"]]
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(1.40)

    gallery = Path(summary["report"]).read_text()
    assert gallery.count("data:image/jpeg;base64,") >= 15
    assert OFFICE in gallery

    noise = ("Traceback", "Warning", "WARNING", "prefect.", "Task run", "Flow run")
    assert [word for word in noise if word in ended.stderr] == []


def test_the_password_of_the_page_is_shown_by_status_alone(morning: Morning) -> None:
    # No terminal, perhaps a log: the password of the page is not told, but where it is.
    password = str(morning.project.stack.prefect_auth_string)

    assert "`comfyline status` shows its password" in morning.ended.stderr
    assert password not in morning.ended.stdout + morning.ended.stderr
    assert password in morning.project.comfyline("status").stdout


def test_the_orchestrator_tells_the_story_of_the_run(
    morning: Morning, stack: StackAddresses
) -> None:
    project, run_id = morning.project, morning.ended.json["run_id"]

    def task_runs() -> Any:
        found = prefect(stack, "task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        done = [run for run in found if run["state_type"] == "COMPLETED"]
        return done if len(done) == 60 else None

    names = Counter(run["name"] for run in project.until(task_runs))
    for item in {output["item"] for output in morning.ended.json["outputs"]}:
        for ratio in ("1:1", "16:9"):
            assert [names[f"{item} · edit · {ratio} · {stage}"] for stage in STAGES] == [1] * 6
    flow_run = prefect(stack, f"flow_runs/{run_id}")
    assert flow_run["state"]["message"] == "10 jobs: 10 persisted"

    nodes = dict(prefect(stack, f"flow_runs/{run_id}/graph-v2")["nodes"])
    for node in nodes.values():
        job = node["label"].rsplit(" · ", 1)[0]
        parents = [nodes[parent["id"]]["label"] for parent in node["parents"]]
        assert all(parent.startswith(job) for parent in parents), node

    logs = prefect(stack, "logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, limit=200)
    said = " ".join(line["message"] for line in logs)
    assert all(charge["request_id"] in said for charge in project.charges(OFFICE))

    assert "dropping message" not in morning.server_log
    # Other tests' workers tell the same server that they live, and ask again when it is busy.
    entries = re.split(r"^(?=\d\d:\d\d:\d\d\.\d)", morning.server_log, flags=re.MULTILINE)
    of_runs = [entry for entry in entries if "worker_channel" not in entry]
    assert not [entry for entry in of_runs if "database is locked" in entry]


def test_what_is_there_is_not_made_again(project: Project) -> None:
    """Also when another prompt was there meanwhile: its pictures lie beside the first ones."""
    prompt, only = "an office by day", ("--limit", "1")
    first = project.run(prompt, *only).json
    other = project.run("an office by night", *only).json

    again = project.run(prompt, *only).json

    assert (other["persisted"], other["submitted"]) == (2, 2)
    assert (again["jobs"], again["reused"], again["submitted"]) == (2, 2, 0)
    assert {o["sha256"] for o in again["outputs"]} == {o["sha256"] for o in first["outputs"]}

    local(again["outputs"][0]["uri"]).unlink()
    third = project.run(prompt, *only).json

    assert (third["persisted"], third["reused"], third["submitted"]) == (1, 1, 0)
    assert [o["sha256"] for o in third["outputs"]] == [o["sha256"] for o in again["outputs"]]
    assert all(local(output["uri"]).exists() for output in third["outputs"])
    assert len(project.charges(prompt)) == 2


def test_the_same_photograph_under_two_names_is_paid_for_once(project: Project) -> None:
    prompt = "an office for a cat and its double"
    photo = (project.directory / "configs/samples/cat.jpg").read_bytes()
    for name in ("cat", "double"):
        (project.directory / f"{name}.jpg").write_bytes(photo)

    ended = project.run(prompt, "--set", "source.files=*.jpg", "--set", SQUARE)

    assert ended.code == 0, ended.stderr
    assert (ended.json["jobs"], ended.json["persisted"], ended.json["submitted"]) == (2, 2, 1)
    assert ended.json["cost_usd"] == pytest.approx(0.14)
    assert len({output["uri"] for output in ended.json["outputs"]}) == 2
    assert len({output["sha256"] for output in ended.json["outputs"]}) == 1
    assert len(project.charges(prompt)) == 1


def test_the_plan_spends_and_writes_nothing(project: Project) -> None:
    prompt = "--set=steps.edit.input.prompt=an office only planned"
    before = sorted(project.home.rglob("ledger*"))

    ended = project.comfyline("plan", "configs/pipelines/office-scenes.yaml", prompt, "--json")

    assert ended.json["to_make"] == 10
    assert ended.json["estimate_usd"] == pytest.approx(1.40)
    assert project.charges("an office only planned") == []
    assert sorted(project.home.rglob("ledger*")) == before
    assert not (project.directory / "outputs").exists()


def asked_for(log: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Which of these requests a sandbox's own log names."""
    text = log.read_text()
    return [row["request_id"] for row in rows if row["request_id"] in text]


def test_what_the_demo_made_is_nothing_to_production(
    project: Project, stack: StackAddresses, start_sandbox: Callable[..., Sandbox]
) -> None:
    prompt = "an office in two places"
    elsewhere, keys = start_sandbox(), stack.storage_credentials
    assert keys is not None
    profile = project.directory / "configs/profiles/production.yaml"
    profile.write_text(profile.read_text().replace("my-bucket", "comfyline"))

    demo = project.run(prompt, "--limit=1")
    project.environment |= {
        "RUNCOMFY_BASE_URL": elsewhere.url,
        "RUNCOMFY_API_TOKEN": "sandbox-token",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_ENDPOINT_URL_S3": str(stack.storage_endpoint),
    }
    production, wanted = "--profile=production", f"--set=steps.edit.input.prompt={prompt}"
    planned = project.comfyline("plan", PIPELINE, wanted, production, "--limit=1", "--json")
    made = project.run(prompt, production, "--limit=1", "--max-cost=5")
    again = project.run(prompt, production, "--limit=1", "--max-cost=5")
    swept = project.comfyline("reconcile", production, "--json")

    assert (demo.code, demo.json["submitted"]) == (0, 2), demo.stderr
    assert planned.json["to_make"] == 2
    counts = {key: made.json[key] for key in ("persisted", "reused", "submitted")}
    assert (made.code, counts) == (0, {"persisted": 2, "reused": 0, "submitted": 2}), made.stderr
    assert (again.json["reused"], again.json["submitted"]) == (2, 0), again.stderr
    assert (swept.code, swept.json["jobs"]) == (0, 0), swept.stderr
    for output in made.json["outputs"]:
        assert local(output["uri"]).stat().st_size == output["bytes"]
    here, there = project.charges(prompt), elsewhere.account()["requests"]
    assert (len(here), len(there)) == (2, 2)
    assert asked_for(elsewhere.log, there) == [row["request_id"] for row in there]
    assert asked_for(elsewhere.log, here) == []
    assert asked_for(project.home / "logs/sandbox.log", there) == []
