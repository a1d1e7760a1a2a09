"""RunComfy is away from the beginning: one retry budget for the whole run, and the right reason."""

import socket
import time

import pytest

from comfyline.job import JobState
from tests.story.conftest import PIPELINE, Project

PATIENCE = 2
OVERHEAD = 15
"""Seconds beyond the patience within which such a run has to end."""


def nobody_answers(project: Project) -> str:
    """A profile whose address refuses every connection; its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    profile = project.directory / "configs/profiles/dead.yaml"
    sandbox = profile.with_name("sandbox.yaml").read_text()
    dead = sandbox.replace("base_url: local:sandbox", f"base_url: {address}", 1)
    dead = dead.replace("  balance_url: local:sandbox\n", "")
    profile.write_text(dead.replace("patience: 20s", f"patience: {PATIENCE}s"))
    return address


@pytest.mark.parametrize("limit", ["25", pytest.param("null", marks=pytest.mark.thorough)])
def test_a_run_against_a_dead_address_ends_soon_with_the_right_reason(
    project: Project, limit: str
) -> None:
    address = nobody_answers(project)
    before = len(project.attempts())
    began = time.monotonic()

    ended = project.comfyline(
        "run",
        PIPELINE,
        f"--set=steps.edit.input.prompt=an office that nobody hears of, {limit}",
        f"--set=limits.max_cost_usd={limit}",
        "--limit=2",
        "--profile=dead",
        "--json",
        RUNCOMFY_API_TOKEN="nobody-checks-it",
    )

    assert ended.code == 69, ended.stderr
    summary = ended.json
    assert summary["seconds"] <= PATIENCE + OVERHEAD, summary
    assert time.monotonic() - began <= PATIENCE + 3 * OVERHEAD
    assert (summary["jobs"], summary["unfinished"], summary["submitted"]) == (4, 4, 0)
    assert {error["kind"] for error in summary["errors"]} == {"unreachable"}
    assert {error["message"] for error in summary["errors"]} == {summary["errors"][0]["message"]}
    said = summary["errors"][0]["message"]
    assert "RunComfy cannot be reached" in said
    assert address in said
    assert "profile dead" in said
    assert f"waiting for RunComfy at {address}" in ended.stderr
    assert "no known price" not in ended.stderr
    # Nothing was begun, so nothing has to be resolved or collected.
    assert len(project.attempts()) == before


def test_a_full_set_of_slots_is_waited_for_in_words_and_does_not_outlive_its_requests(
    project: Project,
) -> None:
    prompt, tight = "an office behind another", project.directory / "configs/profiles/tight.yaml"
    sandbox = tight.with_name("sandbox.yaml").read_text()
    tight.write_text(sandbox.replace("in_flight: 32", "in_flight: 1"))
    only = ("--limit=1", "--set=matrix.aspect_ratio=[1:1]", "--profile=tight")
    project.sandbox("POST", "faults", json={"on": "generation", "kind": "delay", "seconds": 6})
    left = f"--set=steps.edit.input.prompt={prompt}, left"
    # A job may take 1 s: its request holds the slot for as long as it runs all the same.
    short = "--set=limits.timeout=1s"
    first = project.comfyline("run", PIPELINE, left, *only, short, "--json")
    assert (first.code, first.json["unfinished"]) == (75, 1), first.stderr

    second = project.run(prompt, *only)

    assert second.code == 0, second.stderr
    run_id = first.json["run_id"]
    assert (
        f"waiting for a free slot: 1 of 1 in flight, 1 of them from run {run_id}" in second.stderr
    )
    [ours] = project.charges(prompt)
    [theirs] = project.charges(f"{prompt}, left")
    assert theirs["request_id"] != ours["request_id"]
    # Whoever waited has seen its end, so that it is collected and not waited for again.
    [attempt] = project.accepted(f"{prompt}, left")
    assert attempt.state is JobState.COMPLETED
