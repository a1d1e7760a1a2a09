"""What a data team sees of a run: metrics, traces, events of Prefect, JSON logs, the page."""

import json
from typing import Any

from tests.otlp import Collector, collector
from tests.story.conftest import PIPELINE, Project

STAGES = ["validate", "upload-inputs", "submit", "poll", "fetch", "persist"]


def events_of(project: Project, run_id: str, last: str) -> dict[str, list[dict[str, Any]]]:
    """The events of a run by name, once its last one has arrived."""
    ours = {"filter": {"event": {"prefix": ["comfyline."]}}, "limit": 50}

    def arrived() -> dict[str, list[dict[str, Any]]] | None:
        by_name: dict[str, list[dict[str, Any]]] = {}
        for event in project.prefect("POST", "events/filter", json=ours)["events"]:
            if event["payload"]["run_id"] == run_id:
                by_name.setdefault(event["event"], []).append(event)
        return by_name if last in by_name else None

    found: dict[str, list[dict[str, Any]]] = project.until(arrived, 20)
    return found


def check_metrics(otlp: Collector, cost: float) -> None:
    about = {"pipeline": "office-scenes", "model": "google/nano-banana/pro/edit"}
    assert otlp.points("comfyline_jobs_total") == [({**about, "state": "persisted"}, 4)]
    assert otlp.points("comfyline_cost_usd_total") == [(about, cost)]
    for name in ("queue", "generation", "detection_lag"):
        assert otlp.points(f"comfyline_{name}_seconds") == [(about, 4)]
    assert otlp.points("comfyline_runs_total")[0][0]["state"] == "completed"
    sizes = {told["direction"]: size for told, size in otlp.points("comfyline_bytes_total")}
    assert sizes["fetched"] == sizes["stored"] > 0
    [(told, share)] = otlp.points("comfyline_budget_ratio")
    assert told["limit"] == "run"
    assert 0.8 < share < 1


def check_traces(otlp: Collector, run_id: str) -> None:
    [run] = otlp.named("run")
    assert run["prefect.flow_run.id"] == run["comfyline.run_id"] == run_id
    jobs = otlp.named("job")
    assert {one["parent"] for one in jobs} == {run["id"]}
    assert {one["comfyline.state"] for one in jobs} == {"persisted"}
    stages = {one["id"]: one for name in STAGES for one in otlp.named(name)}
    assert len(stages) == 24
    assert {one["parent"] for one in stages.values()} == {one["id"] for one in jobs}
    assert len({one["prefect.task_run.id"] for one in stages.values()}) == 24
    posts = otlp.named("HTTP POST")
    assert {stages[one["parent"]]["comfyline.stage"] for one in posts} == {"submit"}
    assert {one["http.route"] for one in posts} == {"/v1/models/{model_id}"}
    polls = [one for one in otlp.named("HTTP GET") if "status" in one.get("http.route", "")]
    assert {one["http.route"] for one in polls} == {"/v1/requests/{request_id}/status"}
    assert {one["http.response.status_code"] for one in polls} == {200}
    assert {one["comfyline.request_id"] for one in polls} == {
        one["comfyline.request_id"] for one in jobs
    }
    assert {one["trace"] for one in jobs + posts + polls} == {run["trace"]}


def test_a_run_is_told_as_metrics_traces_and_events_and_no_secret_is_among_them(
    project: Project,
) -> None:
    prompt = "steps.edit.input.prompt=an office that is measured"
    asked = ("run", PIPELINE, "--set", prompt, "--limit", "2", "--max-cost", "0.6", "--json")
    with collector() as otlp:
        ended = project.comfyline(*asked, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    summary = json.loads(ended.stdout)
    assert ended.code == 0, ended.stderr
    check_metrics(otlp, summary["cost_usd"])
    check_traces(otlp, summary["run_id"])

    events = events_of(project, summary["run_id"], "comfyline.run.completed")
    submitted, persisted = events["comfyline.job.submitted"], events["comfyline.job.persisted"]
    requests = {one["payload"]["request_id"] for one in persisted}
    assert requests == {one["payload"]["request_id"] for one in submitted}
    assert len(requests) == 4
    for one in persisted:
        job = one["payload"]["job"][:12]
        assert one["resource"]["prefect.resource.id"] == f"comfyline.job.{job}"
        assert one["payload"]["cost_usd"] == 0.14
        related = {told["prefect.resource.id"] for told in one["related"]}
        assert f"prefect.flow-run.{summary['run_id']}" in related
    [budget] = events["comfyline.run.budget"]
    assert budget["payload"]["limit"] == 0.6
    assert len(events["comfyline.run.started"]) == len(events["comfyline.run.completed"]) == 1
    told = otlp.raw.decode("latin-1") + json.dumps(events)
    for secret in ("X-Amz-", "sandbox-token", "Bearer", prompt.partition("=")[2]):
        assert secret not in told


def test_json_logs_are_one_object_a_line_that_says_what_it_is_about(project: Project) -> None:
    prompt = "steps.edit.input.prompt=an office that is logged"
    asked = ("run", PIPELINE, "--set", prompt, "--limit", "1", "--json")
    ended = project.fresh(*asked, COMFYLINE_LOG_FORMAT="json")
    assert ended.code == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    run_id = json.loads(ended.stdout)["run_id"]
    stored = [one for one in lines if one["message"].startswith("comfyline.job.persisted")]
    assert len(stored) == 2
    for one in stored:
        assert (one["run_id"], one["level"], one["item"]) == (run_id, "info", "astronaut")
        assert one["request_id"]
    fetches = [one for one in lines if one["message"].endswith(" fetched")]
    assert {one["stage"] for one in fetches} == {"fetch"}
    assert {one["request_id"] for one in fetches} == {one["request_id"] for one in stored}
    assert {one["job"] for one in fetches} == {one["job"] for one in stored}
