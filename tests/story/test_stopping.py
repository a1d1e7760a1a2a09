"""A run that is told to stop: nothing more is submitted, what is queued is cancelled."""

import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

from comfyline.job import JobState
from tests.conftest import ask_prefect
from tests.ended import Ended
from tests.story.conftest import PIPELINE, Project, Running

JOBS = 6
"""Two more than the sandbox works at."""
LEFT = {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS, JobState.COMPLETED}


def hold_what_begins(project: Project) -> None:
    hold = {"on": "generation", "kind": "delay", "seconds": 5, "times": JOBS}
    project.sandbox("POST", "faults", json=hold)


def begun(project: Project, prompt: str) -> Running:
    """A run that has requests in progress for long, and others queued behind them."""
    hold_what_begins(project)
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    process = project.start("run", PIPELINE, wanted, "--limit=3", "--json")
    project.until(lambda: len(project.accepted(prompt)) == JOBS)
    return process


def end(process: Running) -> Ended:
    stdout, stderr = process.communicate(timeout=60)
    return Ended(process.returncode or 0, stdout, stderr)


def settle(project: Project, prompt: str, ended: Ended) -> None:
    """What must hold after a stop, and that everything can be had all the same."""
    queued = [attempt for attempt in project.accepted(prompt) if attempt.state in LEFT]
    summary = ended.json
    assert ended.code == 130, ended.stderr
    assert summary["cancelled"] > 0
    assert summary["cancelled"] + len(queued) == JOBS
    assert (summary["in_doubt"], summary["failed"]) == (0, 0)
    going_on = [error for error in summary["errors"] if error["kind"] == "interrupted"]
    assert {error["request_id"] for error in going_on} == {one.request_id for one in queued}
    assert all("reconcile" in error["hint"] for error in going_on)
    by_status = [row["status"] for row in project.charges(prompt)]
    assert by_status.count("cancelled") == summary["cancelled"]


def test_ctrl_c_cancels_what_is_queued_and_leaves_the_rest_to_reconcile(project: Project) -> None:
    prompt = "an office that is interrupted"
    process = begun(project, prompt)
    process.send_signal(signal.SIGINT)
    settle(project, prompt, end(process))

    project.sandbox("DELETE", "faults")
    collected = project.comfyline("reconcile", "--json")
    assert (collected.code, collected.json["submitted"]) == (0, 0), collected.stderr
    again = project.run(prompt, "--limit=3")
    assert again.code == 0, again.stderr
    assert again.json["reused"] + again.json["submitted"] == JOBS
    paid = [row for row in project.charges(prompt) if row["charge_usd"]]
    assert len(paid) == JOBS


def test_a_second_ctrl_c_leaves_at_once_and_nothing_is_in_doubt(project: Project) -> None:
    prompt = "an office that is left in a hurry"
    hold = {"on": "cancel", "kind": "delay", "seconds": 30, "times": 20}
    project.sandbox("POST", "faults", json=hold)
    process = begun(project, prompt)
    process.send_signal(signal.SIGINT)
    project.until(lambda: "Ctrl-C again leaves at once" in process.said())
    process.send_signal(signal.SIGINT)
    ended = end(process)

    assert ended.code == 130
    assert {attempt.state for attempt in project.accepted(prompt)} <= LEFT
    project.sandbox("DELETE", "faults")
    again = project.run(prompt, "--limit=3")
    assert (again.code, again.json["submitted"]) == (0, 0), again.stderr


def test_a_plain_run_heeds_a_cancel_from_the_prefect_page(project: Project) -> None:
    prompt = "an office that is cancelled on the page"
    process = begun(project, prompt)
    [run_id] = {attempt.run_id for attempt in project.accepted(prompt)}
    flow_run = f"flow_runs/{run_id}"
    state: dict[str, Any] = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    stack = project.stack
    ask_prefect(stack, "POST", f"{flow_run}/set_state", json=state).raise_for_status()
    settle(project, prompt, end(process))

    seen = ask_prefect(stack, "GET", flow_run).json()
    assert seen["state_type"] == "CANCELLED"
    assert "cancelled in Prefect" in seen["state"]["message"]


@pytest.mark.thorough
def test_a_process_that_is_told_to_end_takes_back_what_is_queued(project: Project) -> None:
    prompt = "an office whose machine is shut down"
    process = begun(project, prompt)
    process.send_signal(signal.SIGTERM)
    settle(project, prompt, end(process))


@pytest.mark.thorough
def test_a_terminal_that_goes_away_ends_a_run_in_order(project: Project) -> None:
    prompt = "an office whose line is cut"
    hold_what_begins(project)
    ours, its = pty.openpty()
    with subprocess.Popen(
        [
            # In a session of its own, whose terminal it is.
            *("setsid", "--ctty", sys.executable, "-m", "comfyline.cli", "run", PIPELINE, "--json"),
            *("--set", f"steps.edit.input.prompt={prompt}", "--limit=3"),
        ],
        cwd=project.directory,
        env=project.environment,
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=its,
        text=True,
    ) as process:
        os.close(its)
        project.until(lambda: len(project.accepted(prompt)) == JOBS)
        # As ssh does when the line is lost: its end of the terminal is closed.
        os.close(ours)
        stdout, _ = process.communicate(timeout=60)
    settle(project, prompt, Ended(process.returncode, stdout, "to a terminal that is gone"))
