"""Lost answers, killed processes, servers that go away: nothing is paid twice, nothing is lost."""

import json

import httpx

from tests.conftest import EDIT
from tests.story.conftest import PIPELINE, Project


def test_a_bad_day_costs_two_jobs_and_nothing_but_those(project: Project) -> None:
    """One is refused, one fails, some wait for their turn, and some arrive cut short at first."""
    prompt = "an office on a bad day"
    slow = {"kind": "status", "code": 429, "headers": {"Retry-After": "1"}, "times": 2}
    for fault in (
        {"on": "submit", "kind": "status", "code": 422},
        {"on": "submit", **slow},
        {"on": "generation", "kind": "fail", "message": "the scene is too dark"},
        {"on": "cdn", "kind": "truncate", "times": 2},
    ):
        project.sandbox("POST", "faults", json=fault)

    ended = project.run(prompt, "--limit", "2")

    counts = {key: ended.json[key] for key in ("persisted", "failed", "in_doubt")}
    assert (ended.code, counts) == (1, {"persisted": 2, "failed": 2, "in_doubt": 0}), ended.stderr
    assert project.sandbox("GET", "faults") == []
    errors = {error["kind"]: error for error in ended.json["errors"]}
    assert set(errors) == {"refused", "generation-failed"}
    assert "the scene is too dark" in errors["generation-failed"]["message"]
    assert errors["generation-failed"]["request_id"]

    again = project.run(prompt, "--limit", "2")

    counts = {key: again.json[key] for key in ("persisted", "reused", "submitted")}
    assert (again.code, counts) == (0, {"persisted": 2, "reused": 2, "submitted": 2}), again.stderr
    assert len([row for row in project.charges(prompt) if row["charge_usd"]]) == 4


def test_a_lost_answer_is_never_sent_again_until_a_person_says_so(project: Project) -> None:
    """One request arrived and the other did not, which nobody but a person can know."""
    prompt, only = "an office whose answer is lost", ("--limit", "1")
    for kind in ("drop-after", "drop-before"):
        project.sandbox("POST", "faults", json={"on": "submit", "kind": kind})

    first = project.run(prompt, *only)
    again = project.run(prompt, *only)

    assert (first.code, first.json["in_doubt"], first.json["jobs"]) == (1, 2, 2)
    assert {(one["stage"], one["kind"]) for one in first.json["errors"]} == {("submit", "in-doubt")}
    assert "comfyline resolve" in first.json["errors"][0]["hint"]
    assert (again.code, again.json["in_doubt"], again.json["submitted"]) == (1, 2, 0)

    [charge] = project.charges(prompt)
    for attempt in project.attempts():
        inputs, key = attempt.checked.job.inputs, attempt.checked.key
        if inputs["prompt"] == prompt:
            arrived = inputs["aspect_ratio"] == charge["input"]["aspect_ratio"]
            answer = ("--request-id", charge["request_id"]) if arrived else ("--lost",)
            resolved = project.comfyline("resolve", key[:12], *answer)
            assert resolved.code == 0, resolved.stderr
    after = project.run(prompt, *only)

    assert (after.code, after.json["persisted"], after.json["submitted"]) == (0, 2, 1)
    assert len(project.charges(prompt)) == 2


def test_answers_about_another_request_end_nothing_and_bring_no_other_picture(
    project: Project,
) -> None:
    prompt = "an office among others"
    only = ("--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")
    before = project.run(f"{prompt}, first", *only)
    [other] = project.charges(f"{prompt}, first")
    stack = project.addresses
    result = httpx.get(
        f"{stack.sandbox_url}/v1/requests/{other['request_id']}/result",
        headers={"Authorization": f"Bearer {stack.sandbox_token}"},
        trust_env=False,
    ).json()
    wrong = [
        ("status", {"request_id": other["request_id"], "status": "failed"}),
        ("status", {"status": "completed", "outcome": "cancelled"}),
        ("result", result),
    ]
    for point, fields in wrong:
        fault = {"on": point, "kind": "fields", "fields": fields, "times": 2}
        project.sandbox("POST", "faults", json=fault)

    ended = project.run(prompt, *only)

    assert (ended.code, ended.json["persisted"], ended.json["submitted"]) == (0, 1, 1)
    assert ended.json["outputs"][0]["sha256"] != before.json["outputs"][0]["sha256"]
    assert project.sandbox("GET", "faults") == []
    [mine] = project.charges(prompt)
    told = f"request {mine['request_id']} is asked about again"
    assert (project.home / "logs/comfyline.log").read_text().count(told) == 1


def test_the_sandbox_may_die_in_the_middle(project: Project) -> None:
    prompt, limit = "an office and a server that dies", "--limit=1"
    slow = {"on": "generation", "kind": "delay", "seconds": 3, "times": 2}
    project.sandbox("POST", "faults", json=slow)
    hasty = project.directory / "configs/profiles/hasty.yaml"
    sandbox = hasty.with_name("sandbox.yaml").read_text()
    hasty.write_text(sandbox.replace("patience: 20s", "patience: 2s"))
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    with project.start("run", PIPELINE, wanted, limit, "--json", "--profile=hasty") as run:
        project.until(lambda: len(project.accepted(prompt)) == 2)
        project.kill("sandbox")
        _, stderr = run.communicate(timeout=120)

    assert run.returncode in {1, 69}, stderr
    assert "reconcile" in stderr
    assert "Traceback" not in stderr
    after = project.run(prompt, limit)
    assert (after.code, after.json["submitted"]) == (0, 0), after.stderr
    assert after.json["persisted"] + after.json["reused"] == 2
    assert len(project.charges(prompt)) == 2


def test_limits_of_a_run_and_of_a_day_hold(project: Project) -> None:
    thrifty = ("--set=name=thrifty", "--set=limits.max_cost_usd_per_day=0.30", "--limit=1")

    first = project.run("an office for today", *thrifty, "--max-cost=0.20")
    second = project.run("an office for tomorrow", *thrifty)

    assert (first.code, first.json["persisted"], first.json["failed"]) == (1, 1, 1), first.stderr
    assert (second.code, second.json["submitted"], second.json["failed"]) == (1, 1, 1)
    errors = [*first.json["errors"], *second.json["errors"]]
    assert {error["kind"] for error in errors} == {"over-budget"}
    assert "today (UTC)" in errors[-1]["message"]
    assert "today (UTC)" not in errors[0]["message"]


def test_an_unknown_price_passes_a_limit_only_when_that_is_allowed(project: Project) -> None:
    prompt = "an office without a price tag"
    model = project.directory / "configs/models/acme/priceless.json"
    model.parent.mkdir()
    entry = json.loads((project.directory / f"configs/models/{EDIT}.json").read_text())
    model.write_text(json.dumps(entry | {"model_id": "acme/priceless", "base_price_usd": None}))
    unknown = ("--set=steps.edit.model=acme/priceless", "--limit=1", "--max-cost=5")

    refused = project.run(prompt, *unknown)

    assert (refused.code, refused.json["submitted"]) == (1, 0)
    assert "no known price" in refused.json["errors"][0]["message"]
    assert "--allow-unknown-cost" in refused.json["errors"][0]["hint"]
    assert project.charges(prompt) == []

    allowed = project.run(prompt, *unknown, "--allow-unknown-cost")

    # The sandbox has no such model; that it was asked is the point.
    assert allowed.json["submitted"] == 2
    assert {error["kind"] for error in allowed.json["errors"]} == {"refused"}
