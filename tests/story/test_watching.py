"""What a data team sees of a run: metrics, traces, events of Prefect, JSON logs, the page."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.ledger.claims import Claimed
from comfyline.ledger.ledger import Ledger
from comfyline.stack.stack import StackAddresses
from tests.cli.conftest import ROOMY, ago, asked
from tests.conftest import ROOT, free_port
from tests.ended import Ended
from tests.otlp import Collector, collector
from tests.story.conftest import PIPELINE, Project, project_at

STAGES = ["validate", "upload-inputs", "submit", "poll", "fetch", "persist"]
PROMPT = "an office that is measured"
SECRET = "f00dfeed0123456789abcdef"
_SAMPLE = re.compile(r"^(comfyline_\w+?)\{(.*)\} ")
_LABEL = re.compile(r"(\w+)=\"")
_SELECTOR = re.compile(r"(comfyline_\w+)(?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Measured:
    """A run that was completed, one in which a job failed, and the ledger's page after both."""

    project: Project
    completed: Collector
    failed: Collector
    summary: Mapping[str, Any]
    failure: Mapping[str, Any]
    page: str

    def told(self) -> dict[str, set[str]]:
        """The attributes of each metric, by its name."""
        told: dict[str, set[str]] = {}
        for otlp in (self.completed, self.failed):
            for name in otlp.metrics:
                for attributes, _ in otlp.points(name):
                    told.setdefault(name, set()).update(attributes)
        for line in self.page.splitlines():
            if found := _SAMPLE.match(line):
                told.setdefault(found[1], set()).update(_LABEL.findall(found[2]))
        return told


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, stack: StackAddresses, stack_home: Path, forks: Path
) -> Iterator[Measured]:
    folder = tmp_path_factory.mktemp("measured") / "project"
    with (
        project_at(folder, stack, stack_home, forks) as project,
        collector() as completed,
        collector() as failed,
    ):
        ended = run(project, completed, PROMPT, "--limit", "2", "--max-cost", "0.6")
        assert ended.code == 0, ended.stderr
        words = f"could not fetch https://bucket.example/cat.png?X-Amz-Signature={SECRET}"
        fails = {"on": "generation", "kind": "fail", "message": words}
        project.sandbox("POST", "faults", json=fails)
        broken = run(project, failed, "an office that fails", "--limit", "1")
        assert broken.code == 1, broken.stderr
        summaries = [json.loads(one.stdout) for one in (ended, broken)]
        yield Measured(project, completed, failed, *summaries, page=ledgers_page(project))


def run(project: Project, otlp: Collector, prompt: str, *more: str) -> Ended:
    wanted = f"steps.edit.input.prompt={prompt}"
    command = ("run", PIPELINE, "--set", wanted, "--json", *more)
    return project.comfyline(*command, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)


def ledgers_page(project: Project) -> str:
    """What `comfyline metrics` shows to Prometheus."""
    port = free_port()
    with project.start("metrics", "--port", str(port)) as process:

        def shown() -> str:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            except httpx.TransportError:
                return ""
            return text if "comfyline_ledger_up" in text else ""

        page = str(project.until(shown))
        process.send_signal(signal.SIGINT)
        process.communicate(60)
    assert process.returncode == 0, process.said()
    return page


def events_of(project: Project, run_id: str, last: str) -> dict[str, list[dict[str, Any]]]:
    """The events of a run by name, once its last one has arrived."""
    # Of this run alone: other tests' runs tell the same server.
    related = {"id": [f"prefect.flow-run.{run_id}"]}
    ours = {"filter": {"event": {"prefix": ["comfyline."]}, "related": related}, "limit": 50}

    def arrived() -> dict[str, list[dict[str, Any]]] | None:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for event in project.prefect("POST", "events/filter", json=ours)["events"]:
            if event["payload"]["run_id"] == run_id:
                by_name.setdefault(event["event"], []).append(event)
        return by_name if last in by_name else None

    found: dict[str, list[dict[str, Any]]] = project.until(arrived)
    return found


def test_metrics_count_the_jobs_of_a_run_their_times_bytes_and_costs(measured: Measured) -> None:
    otlp = measured.completed
    about = {"pipeline": "office-scenes", "model": "google/nano-banana/pro/edit"}
    assert otlp.points("comfyline_jobs_total") == [({**about, "state": "persisted"}, 4)]
    cost = pytest.approx(measured.summary["cost_usd"])
    assert otlp.points("comfyline_cost_usd_total") == [(about, cost)]
    for name in ("queue", "generation", "detection_lag"):
        assert otlp.points(f"comfyline_{name}_seconds") == [(about, 4)]
    [(ended, runs)] = otlp.points("comfyline_runs_total")
    assert (ended["state"], runs) == ("completed", 1)
    sizes = {told["direction"]: size for told, size in otlp.points("comfyline_bytes_total")}
    assert sizes["fetched"] == sizes["stored"] > 0
    [(told, share)] = otlp.points("comfyline_budget_ratio")
    assert (told["limit"], share) == ("run", pytest.approx(0.56 / 0.6))
    failed = {told["state"]: jobs for told, jobs in measured.failed.points("comfyline_jobs_total")}
    assert failed == {"persisted": 1, "failed": 1}
    [(error, errors)] = measured.failed.points("comfyline_errors_total")
    assert (error["kind"], errors) == ("generation-failed", 1)


def test_traces_lead_from_the_run_to_each_call_with_the_ids_of_prefect(measured: Measured) -> None:
    otlp = measured.completed
    [run] = otlp.named("run")
    assert run["prefect.flow_run.id"] == run["comfyline.run_id"] == measured.summary["run_id"]
    jobs = otlp.named("job")
    assert {one["parent"] for one in jobs} == {run["id"]}
    assert {one["comfyline.state"] for one in jobs} == {"persisted"}
    stages = {one["id"]: one for name in STAGES for one in otlp.named(name)}
    assert len(stages) == 24
    assert {one["parent"] for one in stages.values()} == {one["id"] for one in jobs}
    assert len({one["prefect.task_run.id"] for one in stages.values()}) == 24
    posts = otlp.named("HTTP POST")
    assert len(posts) == 4
    assert {stages[one["parent"]]["comfyline.stage"] for one in posts} == {"submit"}
    assert {one["http.route"] for one in posts} == {"/v1/models/{model_id}"}
    polls = [one for one in otlp.named("HTTP GET") if "status" in one.get("http.route", "")]
    assert {one["http.route"] for one in polls} == {"/v1/requests/{request_id}/status"}
    assert {one["http.response.status_code"] for one in polls} == {200}
    asked = {one["comfyline.request_id"] for one in jobs}
    assert {one["comfyline.request_id"] for one in polls} == asked
    assert {one["trace"] for one in jobs + posts + polls} == {run["trace"]}


def test_prefect_hears_of_the_run_and_its_jobs_and_no_secret_is_told(measured: Measured) -> None:
    run_id = measured.summary["run_id"]
    events = events_of(measured.project, run_id, "comfyline.run.completed")
    submitted, persisted = events["comfyline.job.submitted"], events["comfyline.job.persisted"]
    requests = {one["payload"]["request_id"] for one in persisted}
    assert requests == {one["payload"]["request_id"] for one in submitted}
    assert len(requests) == 4
    for one in persisted:
        job = one["payload"]["job"][:12]
        assert one["resource"]["prefect.resource.id"] == f"comfyline.job.{job}"
        assert one["payload"]["cost_usd"] == 0.14
        related = {told["prefect.resource.id"] for told in one["related"]}
        assert f"prefect.flow-run.{run_id}" in related
    [budget] = events["comfyline.run.budget"]
    assert budget["payload"]["limit"] == 0.6
    assert len(events["comfyline.run.started"]) == len(events["comfyline.run.completed"]) == 1
    unhappy = events_of(measured.project, measured.failure["run_id"], "comfyline.run.failed")
    [failed] = unhappy["comfyline.job.failed"]
    assert (failed["payload"]["error"], failed["payload"]["stage"]) == ("generation-failed", "poll")
    assert "https://bucket.example/cat.png" in failed["payload"]["reason"]
    told = json.dumps([events, unhappy])
    for otlp in (measured.completed, measured.failed):
        told += otlp.raw.decode("latin-1")
    for secret in (SECRET, "X-Amz-", "sandbox-token", "Bearer", PROMPT):
        assert secret not in told


def asked_for() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard and of the alert rules, with its title."""
    board = json.loads((ROOT / "deploy/grafana/comfyline.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            # Else it would show the last number of the day when nobody sees the ledger any more.
            assert target.get("instant", False) == (panel["type"] == "stat"), panel["title"]
            yield panel["title"], target["expr"]
            for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert name in target["expr"] or name == "pipeline", panel["title"]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in (ROOT / "docs/operations.md").read_text()
            yield rule["alert"], rule["expr"]


def test_dashboard_and_alert_rules_ask_for_what_is_really_told(measured: Measured) -> None:
    told = measured.told()
    expressions = list(asked_for())
    assert len(expressions) > 20
    for title, expression in expressions:
        known = {"le"}
        # A run has series of its own, and a short one is exported once: nothing increases in it.
        assert "increase(" not in expression, title
        selectors = _SELECTOR.findall(expression)
        assert selectors, title
        for series, matchers in selectors:
            name = series.removesuffix("_bucket")
            assert name in told, f"{title}: {name}"
            known |= told[name]
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= told[name], f"{title}: {matchers}"
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            assert {one.strip() for one in labels.split(",")} <= known, f"{title}: {labels}"
    assert set(told) - {"comfyline_runs_total"} == {
        name.removesuffix("_bucket") for _, one in expressions for name, _ in _SELECTOR.findall(one)
    }


def test_json_logs_are_one_object_a_line_that_says_what_it_is_about(project: Project) -> None:
    prompt = "steps.edit.input.prompt=an office that is logged"
    asked = ("run", PIPELINE, "--set", prompt, "--limit", "1", "--json")
    ended = project.fresh(*asked, COMFYLINE_LOG_FORMAT="json")
    assert ended.code == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    run_id = json.loads(ended.stdout)["run_id"]
    stored = [one for one in lines if one.get("event") == "comfyline.job.persisted"]
    assert len(stored) == 2
    for one in stored:
        assert (one["run_id"], one["level"], one["item"]) == (run_id, "info", "astronaut")
        assert one["request_id"]
    fetches = [one for one in lines if one["message"].endswith(" fetched")]
    assert {one["stage"] for one in fetches} == {"fetch"}
    for name in ("request_id", "job"):
        assert {one[name] for one in fetches} == {one[name] for one in stored}


def python(project: Project, code: str) -> str:
    """What a few lines print in a process of their own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        cwd=project.directory,
        env=project.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout


def test_a_run_that_breaks_unexpectedly_is_told_to_have_failed(project: Project) -> None:
    code = f"""
import asyncio
from prefect import flow
from flows.session import run_id, with_services

@flow
async def broken():
    async def work(_):
        print(run_id())
        raise RuntimeError("https://bucket.example/cat.png?X-Amz-Signature={SECRET}")
    return await with_services("sandbox", work)

asyncio.run(broken(return_state=True))
"""
    run_id = python(project, code).strip()
    [failed] = events_of(project, run_id, "comfyline.run.failed")["comfyline.run.failed"]
    assert "failed unexpectedly: RuntimeError" in failed["payload"]["reason"]
    assert SECRET not in json.dumps(failed)


def test_a_doubt_that_was_told_is_found_behind_many_of_another_job(project: Project) -> None:
    start = datetime.now(UTC) - timedelta(minutes=2)

    def told(key: str, second: int) -> dict[str, Any]:
        return {
            "id": str(uuid4()),
            "occurred": (start + timedelta(seconds=second)).isoformat(),
            "event": "comfyline.job.in_doubt",
            "resource": {"prefect.resource.id": f"comfyline.job.{key}"},
            "payload": {"run_id": "nobody's"},
        }

    loud, quiet, untold = (uuid4().hex[:12] for _ in range(3))
    events = [told(quiet, 0), *(told(loud, second) for second in range(1, 60))]
    project.prefect("POST", "events", json=events)
    there = {"filter": {"resource": {"id": [f"comfyline.job.{loud}", f"comfyline.job.{quiet}"]}}}
    project.until(lambda: project.prefect("POST", "events/filter", json=there)["total"] == 60)
    code = f"""
import asyncio
from datetime import datetime
from flows.events import untold_doubts
since = datetime.fromisoformat({start.isoformat()!r})
print(asyncio.run(untold_doubts(dict.fromkeys({[loud, quiet, untold]}, since))))
"""
    assert python(project, code).strip() == str({untold})


async def test_reconcile_tells_of_what_is_paid_and_not_stored_for_five_days(
    project: Project, tmp_path: Path
) -> None:
    url, account = f"sqlite:///{tmp_path / 'old.sqlite3'}", Account(LOCAL_SANDBOX, profile="quick")
    ledger = Ledger(url, "test", lambda: ago(days=6), account=account)
    claim = await ledger.claim(asked("old"), run_id="run-1", refresh=False, limits=ROOMY)
    assert isinstance(claim, Claimed)
    await ledger.accepted(claim.attempt_id, "a-request-of-last-week")
    ledger.close()
    profile = project.directory / "quick.yaml"
    profile.write_text("extends: configs/profiles/sandbox.yaml\nruncomfy: {patience: 1s}\n")
    ended = project.comfyline(
        "reconcile", "--profile", str(profile), "--json", COMFYLINE_LEDGER_URL=url
    )
    assert ended.code == 75, ended.stderr
    run_id = json.loads(ended.stdout)["run_id"]
    [risk] = events_of(project, run_id, "comfyline.ledger.at_risk")["comfyline.ledger.at_risk"]
    assert risk["payload"]["count"] == 1
    assert risk["payload"]["oldest_seconds"] == pytest.approx(6 * 86400, abs=600)
    assert risk["payload"]["oldest"].startswith("144 h")
