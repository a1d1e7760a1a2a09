"""A token that is rotated while jobs are under way: all of them are collected with the new one."""

import json
from collections.abc import Callable
from pathlib import Path

from comfyline.job import JobState
from tests.conftest import Sandbox
from tests.story.conftest import PIPELINE, Project


def test_what_the_old_token_submitted_is_collected_with_the_new_one(
    project: Project, tmp_path: Path, start_sandbox: Callable[..., Sandbox]
) -> None:
    sandbox = start_sandbox()
    sandbox.order(on="generation", kind="delay", seconds=20, times=2)
    profile = {
        "runcomfy": {"base_url": sandbox.url, "download_hosts": [], "token_env": "OLD_TOKEN"},
        "storage": {"uploads": "s3://comfyline/uploads", "endpoint_url": "local:storage"},
    }
    where = project.directory / "where.yaml"
    where.write_text(json.dumps(profile))
    project.environment |= {
        "OLD_TOKEN": "sandbox-token",
        "NEW_TOKEN": "a-new-token",
        "COMFYLINE_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
    }
    prompt = "an office with a new lock"
    asks = ("run", PIPELINE, "--limit=1", f"--set=steps.edit.input.prompt={prompt}")

    with project.start(*asks, "--profile=where.yaml", "--json") as run:
        project.until(lambda: len(project.accepted(prompt)) == 2)
        sandbox.end()
        sandbox.command += ["--token", "a-new-token"]
        sandbox.start()
        stdout, stderr = run.communicate(timeout=120)
    meanwhile = project.comfyline("reconcile", "--profile=where.yaml")
    refused = project.comfyline(*asks, "--set=output.to=b", "--refresh", "--profile=where.yaml")

    assert run.returncode == meanwhile.code == refused.code == 77, stderr + meanwhile.stderr
    summary = json.loads(stdout)
    assert (summary["failed"], summary["unfinished"]) == (0, 2)
    assert {error["kind"] for error in summary["errors"]} == {"token"}
    open_states = {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS}
    assert {one.state for one in project.accepted(prompt)} <= open_states

    where.write_text(
        json.dumps(profile | {"runcomfy": profile["runcomfy"] | {"token_env": "NEW_TOKEN"}})
    )
    collected = project.comfyline("reconcile", "--profile=where.yaml")
    again = project.comfyline(*asks, "--profile=where.yaml", "--json")

    assert collected.code == 0, collected.stderr
    assert (again.code, again.json["reused"], again.json["submitted"]) == (0, 2, 0)
    assert len(sandbox.account()["requests"]) == 2
    said = stderr + meanwhile.stderr + refused.stderr + collected.stderr
    assert "a-new-token" not in said
    assert "sandbox-token" not in said
