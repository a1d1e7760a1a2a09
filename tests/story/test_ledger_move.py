"""A ledger that moves in the middle of a run: there and back, and nothing is paid for twice."""

import signal
from pathlib import Path

from tests.story.conftest import PIPELINE, Project


def killed(project: Project, prompt: str, target: str) -> None:
    """A run of four jobs, killed once all are accepted; while it lived, nothing could move."""
    project.sandbox(
        "POST", "faults", json={"on": "generation", "kind": "delay", "seconds": 8, "times": 4}
    )
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    with project.start("run", PIPELINE, wanted, "--limit=2", "--json") as run:
        project.until(lambda: len(project.accepted(prompt)) == 4)
        in_use = project.comfyline("ledger", "move", target)
        run.send_signal(signal.SIGKILL)
    assert (in_use.code, "in use by" in in_use.stderr) == (75, True), in_use.stderr


def test_what_was_accepted_before_a_move_is_collected_after_it_there_and_back(
    project: Project, tmp_path: Path, postgresql_database: str
) -> None:
    first, last = (f"sqlite:///{tmp_path / name}.sqlite3" for name in ("first", "last"))
    ledger, prompt = "COMFYLINE_LEDGER_URL", "an office that moves house"
    project.environment[ledger] = first

    killed(project, prompt, postgresql_database)
    moved = project.comfyline("ledger", "move", postgresql_database)
    told = project.run(prompt, "--limit=2")
    project.environment[ledger] = postgresql_database
    made = project.run(prompt, "--limit=2")

    assert moved.code == 0, moved.stderr
    assert (told.code, "moved to postgresql:" in told.stderr) == (69, True), told.stderr
    assert (made.code, made.json["persisted"], made.json["submitted"]) == (0, 4, 0), made.stderr
    assert len(project.charges(prompt)) == 4

    again = "an office that moves back"
    killed(project, again, last)
    back = project.comfyline("ledger", "move", last)
    project.environment[ledger] = last
    collected = project.comfyline("reconcile")
    both = [project.run(one, "--limit=2") for one in (prompt, again)]

    assert back.code == collected.code == 0, back.stderr + collected.stderr
    assert [(one.json["reused"], one.json["submitted"]) for one in both] == [(4, 0), (4, 0)]
    assert len(project.charges(again)) == 4
    project.environment[ledger] = first
    assert project.comfyline("jobs").code == 69
    project.environment[ledger] = last
