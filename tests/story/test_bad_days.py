"""Lost answers, killed processes, servers that go away: nothing is paid twice, nothing is lost."""

import json
import re
import signal

import httpx

from tests.conftest import EDIT
from tests.story.conftest import Project


def slow_down(project: Project) -> None:
    """Holds the next requests in progress, so that a run is still waiting when something ends."""
    slow = {"on": "generation", "kind": "delay", "seconds": 6, "times": 4}
    project.sandbox("POST", "faults", json=slow)


def settled(project: Project, prompt: str) -> dict[str, int]:
    """How the run of a prompt ends when it is simply run again."""
    ended = project.run(prompt, "--limit", "2")
    assert ended.code == 0, ended.stderr
    summary = ended.json
    assert summary["persisted"] + summary["reused"] == summary["jobs"] == 4
    return {key: summary[key] for key in ("persisted", "reused", "submitted")}


def test_a_lost_answer_is_in_doubt_and_never_sent_again(project: Project) -> None:
    prompt = "an office whose answer is lost"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-after"})

    first = project.run(prompt, "--limit", "1")

    assert first.code == 1
    assert (first.json["persisted"], first.json["in_doubt"]) == (1, 1)
    [error] = first.json["errors"]
    assert (error["stage"], error["kind"]) == ("submit", "in-doubt")
    assert "comfyline resolve" in error["hint"]

    again = project.run(prompt, "--limit", "1")
    refreshed = project.run(prompt, "--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")

    assert (again.code, again.json["in_doubt"], again.json["submitted"]) == (1, 1, 0)
    assert refreshed.json["submitted"] == 0
    assert len(project.charges(prompt)) == 2


def test_a_submission_in_doubt_is_adopted_by_its_request_id(project: Project) -> None:
    prompt = "an office that is found again"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-after"})
    only = ("--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")
    doubtful = project.run(prompt, *only).json["errors"][0]["job"]
    [charge] = project.charges(prompt)

    resolved = project.comfyline("resolve", doubtful[:12], "--request-id", charge["request_id"])
    after = project.run(prompt, *only)

    assert resolved.code == 0, resolved.stderr
    assert (after.code, after.json["persisted"], after.json["submitted"]) == (0, 1, 0)
    assert len(project.charges(prompt)) == 1


def test_a_submission_that_a_person_calls_lost_is_sent_again(project: Project) -> None:
    prompt = "an office that never arrived"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-before"})
    only = ("--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")
    doubtful = project.run(prompt, *only).json["errors"][0]["job"]
    assert project.charges(prompt) == []

    project.comfyline("resolve", doubtful, "--lost")
    after = project.run(prompt, *only)

    assert (after.code, after.json["persisted"], after.json["submitted"]) == (0, 1, 1)
    assert len(project.charges(prompt)) == 1


def test_a_refusal_fails_one_job_and_the_rest_is_stored(project: Project) -> None:
    prompt = "an office that is refused once"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "status", "code": 422})

    ended = project.run(prompt, "--limit", "1")

    assert ended.code == 1
    assert (ended.json["persisted"], ended.json["failed"]) == (1, 1)
    assert ended.json["errors"][0]["kind"] == "refused"
    assert project.run(prompt, "--limit", "1").json["submitted"] == 1


def test_asked_to_slow_down_it_waits_and_goes_on(project: Project) -> None:
    prompt = "an office in a rush"
    slow = {"kind": "status", "code": 429, "headers": {"Retry-After": "1"}, "times": 2}
    project.sandbox("POST", "faults", json={"on": "submit", **slow})

    ended = project.run(prompt, "--limit", "1")

    assert (ended.code, ended.json["persisted"]) == (0, 2)
    assert len(project.charges(prompt)) == 2


def test_a_generation_that_fails_is_said_and_not_charged(project: Project) -> None:
    prompt = "an office that cannot be painted"
    fail = {"on": "generation", "kind": "fail", "message": "the scene is too dark"}
    project.sandbox("POST", "faults", json=fail)

    ended = project.run(prompt, "--limit", "1")

    assert (ended.code, ended.json["persisted"], ended.json["failed"]) == (1, 1, 1)
    [error] = ended.json["errors"]
    assert error["kind"] == "generation-failed"
    assert "the scene is too dark" in error["message"]
    assert error["request_id"]


def test_a_truncated_download_is_fetched_again_and_not_bought_again(project: Project) -> None:
    prompt = "an office cut short"
    project.sandbox("POST", "faults", json={"on": "cdn", "kind": "truncate", "times": 2})

    ended = project.run(prompt, "--limit", "1")

    assert (ended.code, ended.json["persisted"], ended.json["submitted"]) == (0, 2, 2)


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


def test_a_lost_output_is_told_in_words_and_fetched_by_the_next_run(project: Project) -> None:
    prompt = "an office that breaks off"
    project.sandbox("POST", "faults", json={"on": "cdn", "kind": "truncate", "times": 99})
    only = ("--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")

    ended = project.run(prompt, *only)

    summary = ended.json
    assert ended.code == 1, ended.stderr
    assert (summary["jobs"], summary["unfinished"], summary["submitted"]) == (1, 1, 1)
    [error] = summary["errors"]
    assert (error["stage"], error["kind"]) == ("fetch", "output-unreachable")
    assert re.search(r"the connection broke after [\d,]+ of [\d,]+ bytes", error["message"])
    assert "comfyline reconcile" in error["hint"]
    assert not re.search(r"[A-Z][a-z]+[A-Z]\w*Error", ended.stdout + ended.stderr)

    project.sandbox("DELETE", "faults")
    again = project.run(prompt, *only)

    assert (again.code, again.json["persisted"], again.json["submitted"]) == (0, 1, 0)
    assert len(project.charges(prompt)) == 1


def test_a_place_that_cannot_be_written_loses_nothing(project: Project) -> None:
    prompt = "an office with no room on the shelf"
    shelf = project.directory / "outputs/office-scenes"
    shelf.parent.mkdir()
    shelf.write_text("a file, where a folder should be")

    first = project.run(prompt, "--limit", "1")

    assert first.code != 0
    assert (first.json["persisted"], first.json["submitted"]) == (0, 2)
    error = first.json["errors"][0]
    assert error["stage"] == "persist"
    assert "astronaut-1-1-edit-0.png" in error["message"]

    shelf.unlink()
    second = project.run(prompt, "--limit", "1")

    assert (second.code, second.json["persisted"], second.json["submitted"]) == (0, 2, 0)
    assert len(list(shelf.glob("*.png"))) == 2
    assert len(project.charges(prompt)) == 2


def test_killed_in_the_middle_a_run_is_finished_by_the_next(project: Project) -> None:
    prompt = "an office with a power cut"
    slow_down(project)
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    with project.start("run", "configs/pipelines/office-scenes.yaml", wanted, "--limit=2") as run:
        project.until(lambda: len(project.accepted(prompt)) == 4)
        run.send_signal(signal.SIGKILL)

    assert settled(project, prompt)["submitted"] == 0
    assert len(project.charges(prompt)) == 4
    assert list(project.home.glob("work/*")) == []


def test_reconcile_finishes_what_an_interrupted_run_left(project: Project) -> None:
    prompt = "an office left behind"
    slow_down(project)
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    arguments = ("run", "configs/pipelines/office-scenes.yaml", wanted, "--limit=2", "--json")
    with project.start(*arguments) as run:
        project.until(lambda: len(project.accepted(prompt)) == 4)
        run.send_signal(signal.SIGINT)
        stdout, stderr = run.communicate(timeout=60)

    assert run.returncode == 130
    assert "Traceback" not in stderr
    assert '"kind":"interrupted"' in stdout

    swept = project.comfyline("reconcile", "--json")

    assert swept.code == 0, swept.stderr
    assert swept.json["submitted"] == 0
    assert settled(project, prompt) == {"persisted": 0, "reused": 4, "submitted": 0}


def test_the_sandbox_may_die_in_the_middle(project: Project) -> None:
    prompt = "an office and a server that dies"
    slow_down(project)
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    hasty = project.directory / "configs/profiles/hasty.yaml"
    sandbox = hasty.with_name("sandbox.yaml").read_text()
    hasty.write_text(sandbox.replace("patience: 20s", "patience: 3s"))
    arguments = ("run", "configs/pipelines/office-scenes.yaml", wanted, "--limit=2", "--json")
    with project.start(*arguments, "--profile=hasty") as run:
        project.until(lambda: len(project.accepted(prompt)) == 4)
        project.kill("sandbox")
        _, stderr = run.communicate(timeout=120)

    assert run.returncode in {1, 69}, stderr
    assert "reconcile" in stderr
    assert "Traceback" not in stderr
    assert settled(project, prompt)["submitted"] == 0
    assert len(project.charges(prompt)) == 4


def test_no_job_is_submitted_beyond_the_cost_limit(project: Project) -> None:
    prompt = "an office on a budget"

    ended = project.run(prompt, "--limit", "2", "--max-cost", "0.30")

    assert (ended.code, ended.json["persisted"], ended.json["failed"]) == (1, 2, 2)
    assert {error["kind"] for error in ended.json["errors"]} == {"over-budget"}
    assert len(project.charges(prompt)) == 2


def test_the_limit_of_a_day_holds_over_all_runs_of_a_pipeline(project: Project) -> None:
    thrifty = ("--set=name=thrifty", "--set=limits.max_cost_usd_per_day=0.30", "--limit=1")

    first = project.run("an office for today", *thrifty)
    second = project.run("an office for tomorrow", *thrifty)

    assert (first.code, first.json["persisted"]) == (0, 2), first.stderr
    assert (second.code, second.json["submitted"], second.json["failed"]) == (1, 0, 2)
    assert {error["kind"] for error in second.json["errors"]} == {"over-budget"}
    assert "today (UTC)" in second.json["errors"][0]["message"]


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
