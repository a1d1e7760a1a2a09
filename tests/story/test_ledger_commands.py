"""What `jobs` and `cancel` say of the ledger, as programs and people read it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from comfyline.stack.stack import StackAddresses
from tests.conftest import Sandbox, prefect_variables
from tests.ledger.proxy import proxy
from tests.story.conftest import Project, project_at

PIPELINE = "configs/pipelines/office-scenes.yaml"
FIELDS = {
    "job",
    "pipeline",
    "item",
    "step",
    "model",
    "state",
    "request_id",
    "cost_usd",
    "created_at",
    "updated_at",
    "outputs",
    "error",
}


def test_jobs_lists_what_the_contract_names(project: Project) -> None:
    made = project.run("an office in the ledger", "--limit", "1").json

    listed = project.comfyline(
        "jobs", "--state", "persisted", "--pipeline", "office-scenes", "--json"
    )

    mine = [row for row in listed.json if row["job"] in {out["job"] for out in made["outputs"]}]
    assert len(mine) == 2
    for row in mine:
        assert set(row) >= FIELDS
        assert (row["state"], row["cost_usd"], row["error"]) == ("persisted", 0.14, None)
        assert row["outputs"][0]["uri"] in {output["uri"] for output in made["outputs"]}
    assert project.comfyline("jobs", "--pipeline", "no-such-pipeline", "--json").json == []


def test_a_run_is_stopped_from_another_terminal_and_says_what_could_not_be_cancelled(
    project: Project, start_sandbox: Callable[..., Sandbox]
) -> None:
    sandbox = start_sandbox(slots=1)
    sandbox.order(on="generation", kind="delay", seconds=600)
    profile = {
        "runcomfy": {"base_url": sandbox.url, "download_hosts": []},
        "storage": {"uploads": "s3://comfyline/uploads", "endpoint_url": "local:storage"},
    }
    (project.directory / "where.yaml").write_text(json.dumps(profile))
    project.environment["RUNCOMFY_API_TOKEN"] = "sandbox-token"
    where = "--profile=where.yaml"

    prompt = "--set=steps.edit.input.prompt=an office with two doors"
    with project.start("run", PIPELINE, "--limit=1", prompt, where, "--json") as run:
        project.until(
            lambda: (
                sorted(row["status"] for row in sandbox.account()["requests"])
                == ["in_progress", "in_queue"]
            )
        )
        ids = {row["request_id"] for row in sandbox.account()["requests"]}
        known = project.until(
            lambda: (
                mine
                if len(mine := [a for a in project.attempts() if a.request_id in ids]) == 2
                else None
            )
        )
        [run_id] = {attempt.run_id for attempt in known}
        cancelled = project.comfyline("cancel", "--run", run_id, where)
        stdout, stderr = run.communicate(timeout=120)

    assert cancelled.code == 1
    assert "submits nothing more" in cancelled.stderr
    assert cancelled.stderr.count("is cancelled.") == 1
    assert cancelled.stderr.count("is not cancellable.") == 1
    assert run.returncode == 130, stderr
    summary = json.loads(stdout)
    assert (summary["cancelled"], summary["failed"], summary["submitted"]) == (1, 0, 2)


@pytest.fixture
def machines(
    tmp_path: Path, stack: StackAddresses, forks: Path, sandbox: Sandbox, postgresql_database: str
) -> Iterator[tuple[Project, Project]]:
    """Two that share the ledger's URL, the token and the storage's keys, and nothing else."""
    keys = stack.storage_credentials
    assert keys is not None
    profile = {
        "runcomfy": {"base_url": sandbox.url, "download_hosts": [], "patience": "2s"},
        "storage": {"uploads": "s3://comfyline/up", "endpoint_url": stack.storage_endpoint},
    }
    with (
        project_at(tmp_path / "old", stack, tmp_path / "old-home", forks) as old,
        project_at(tmp_path / "new", stack, tmp_path / "new-home", forks) as new,
    ):
        for machine in (old, new):
            (machine.directory / "where.yaml").write_text(json.dumps(profile))
            machine.environment |= {
                "COMFYLINE_LEDGER_URL": postgresql_database,
                "RUNCOMFY_API_TOKEN": "sandbox-token",
                "AWS_ACCESS_KEY_ID": keys.access_key_id,
                "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
                **prefect_variables(stack),
            }
        yield old, new


def test_a_new_machine_rescues_what_was_paid_for_before_its_seven_days_are_over(
    tmp_path: Path,
    machines: tuple[Project, Project],
    sandbox: Sandbox,
    postgresql_database: str,
) -> None:
    old, new = machines
    before = len(sandbox.account()["requests"])
    sandbox.order(on="generation", kind="delay", seconds=6, times=2)
    out = f"s3://comfyline/{tmp_path.name}"

    hasty = ["--limit=1", "--set=limits.timeout=1s", f"--set=output.to={out}"]
    ran = old.comfyline("run", PIPELINE, *hasty, "--profile=where.yaml", "--json")

    assert ran.code == 75, ran.stderr
    assert (ran.json["submitted"], ran.json["failed"], ran.json["persisted"]) == (2, 0, 0)
    assert {error["kind"] for error in ran.json["errors"]} == {"deadline"}
    assert "2 not finished (deadline: 2)" in ran.stderr
    assert "fail" not in ran.stderr.lower()
    assert "again" not in ran.stderr

    with psycopg.connect(postgresql_database) as ledger:
        ledger.execute("UPDATE attempts SET submitted_at = now() - interval '6 days 19 hours'")
    first, second = [row["request_id"] for row in sandbox.account()["requests"][before:]]
    sandbox.finish(first)
    sandbox.finish(second)
    sandbox.open.post(f"/sandbox/expire/{second}").raise_for_status()

    swept = new.comfyline("reconcile", "--profile=where.yaml", "--json")

    said = swept.stderr
    assert said.index("ONLY 4 h LEFT") < said.index("2 jobs paid for and not stored")
    assert (swept.code, swept.json["persisted"], swept.json["submitted"]) == (75, 1, 0)
    [output] = swept.json["outputs"]
    assert output["uri"].startswith(out)
    assert f"stored as {output['uri']}" in said
    [unknown] = swept.json["errors"]
    assert (unknown["kind"], unknown["request_id"]) == ("not-known-now", second)
    assert swept.json["unfinished"] == 1

    # Once the days are over, and hours after it was first missed.
    with psycopg.connect(postgresql_database) as ledger:
        aged = "UPDATE attempts SET submitted_at = now() - interval '8 days',"
        ledger.execute(f"{aged} missing_since = missing_since - interval '4 hours'")
    late = new.comfyline("reconcile", "--profile=where.yaml", "--json")
    assert (late.code, late.json["persisted"], late.json["submitted"]) == (1, 0, 0)
    [lost] = late.json["errors"]
    assert (lost["kind"], lost["request_id"]) == ("expired", second)
    assert "which was paid for" in lost["message"]
    assert len(sandbox.account()["requests"]) == before + 2
    verified = new.comfyline("verify", out, "--profile=where.yaml", "--json").json
    assert (verified["right"], verified["wrong"]) == (1, [])


def test_a_run_whose_ledger_is_away_for_a_while_goes_on_with_nothing_lost(
    tmp_path: Path,
    stack: StackAddresses,
    forks: Path,
    start_sandbox: Callable[..., Sandbox],
    postgresql_database: str,
) -> None:
    """It goes away while RunComfy works, and is back after that has come to an end."""
    keys = stack.storage_credentials
    assert keys is not None
    sandbox = start_sandbox()
    sandbox.order(on="generation", kind="delay", seconds=2, times=2)
    profile = {
        "runcomfy": {"base_url": sandbox.url, "download_hosts": [], "patience": "2s"},
        "storage": {"uploads": "s3://comfyline/up", "endpoint_url": stack.storage_endpoint},
    }
    project = Project(tmp_path / "project", tmp_path / "home", forks, stack)
    (project.directory / "where.yaml").write_text(json.dumps(profile))

    def statuses() -> list[str]:
        return [row["status"] for row in sandbox.account()["requests"]]

    with proxy(postgresql_database) as between, psycopg.connect(postgresql_database) as beside:
        beside.autocommit = True
        project.environment |= {
            "COMFYLINE_LEDGER_URL": between.url,
            "RUNCOMFY_API_TOKEN": "sandbox-token",
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            **prefect_variables(stack),
        }

        with project.start("run", PIPELINE, "--limit=1", "--profile=where.yaml", "--json") as run:
            project.until(lambda: len(statuses()) == 2)
            between.goes_away()
            project.until(lambda: statuses() == ["completed", "completed"])
            project.until(lambda: "waiting for it" in run.said())
            between.comes_back()
            stdout, stderr = run.communicate(timeout=180)
        states = beside.execute("SELECT state FROM attempts").fetchall()

    assert run.returncode == 0, stderr
    assert "answers again" in stderr
    assert json.loads(stdout)["persisted"] == len(states) == len(statuses()) == 2
    assert states == [("persisted",), ("persisted",)]
