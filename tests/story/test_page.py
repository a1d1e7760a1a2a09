"""What Prefect's page says of each stage, asked of the real server once a run has settled."""

import json
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import EDIT
from tests.ended import Ended
from tests.story.conftest import PIPELINE, Project

ENDS = {
    "generation-failed": ("FAILED", "Failed"),
    "refused": ("FAILED", "Failed"),
    "over-budget": ("FAILED", "Failed"),
    "rejected": ("FAILED", "Failed"),
    "name-taken": ("FAILED", "Failed"),
    "input-invalid": ("FAILED", "Failed"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "in-doubt": ("FAILED", "InDoubt"),
    "interrupted": ("FAILED", "Unfinished"),
    "deadline": ("FAILED", "Unfinished"),
    "unreachable": ("FAILED", "Unfinished"),
    "unfetchable": ("FAILED", "Unfinished"),
    "broken-output": ("FAILED", "Unfinished"),
}
"""By the kind of a job's error: type and name of the state of the stage in which it ended."""

ONE_OF_EACH = f"""\
name: one-of-each
source:
  items:
    - {{stem: plain, ratio: "21:9", step: edit}}
    - {{stem: invalid, ratio: "8:1", step: edit}}
    - {{stem: taken, ratio: "16:9", step: edit}}
    - {{stem: unwritable, ratio: "9:16", step: edit}}
    - {{stem: small, ratio: "3:2", step: strict}}
    - {{stem: priceless, ratio: "2:3", step: priceless}}
steps:
  edit: &edit
    model: {EDIT}
    when: "{{{{ item.step == 'edit' }}}}"
    input:
      prompt: an office of each kind
      image_urls: [configs/samples/cat.jpg]
      aspect_ratio: "{{{{ item.ratio }}}}"
  strict:
    <<: *edit
    when: "{{{{ item.step == 'strict' }}}}"
    checks: {{min_width: 9000}}
  priceless:
    <<: *edit
    model: acme/priceless
    when: "{{{{ item.step == 'priceless' }}}}"
output:
  to: "shelf/{{{{ item.stem }}}}"
  name: picture.png
  on_conflict: keep
limits:
  max_cost_usd: 25
"""


def on_the_page(project: Project, run_id: str, how_many: int) -> Mapping[str, Mapping[str, Any]]:
    """A flow run's task runs by their names, once so many have ended; they arrive late."""
    body = {"flow_runs": {"id": {"any_": [run_id]}}}

    def settled() -> list[dict[str, Any]] | None:
        found = project.prefect("POST", "task_runs/filter", json=body)
        running = {"PENDING", "RUNNING", "SCHEDULED"}
        # A task run may be known for a moment before its state is.
        ended = [one for one in found if one["state"] and one["state_type"] not in running]
        return found if len(ended) == len(found) >= how_many else None

    tasks = project.until(settled)
    assert len(tasks) == how_many, sorted(one["name"] for one in tasks)
    return {one["name"]: one for one in tasks}


def expect(project: Project, ended: Ended, completed: int) -> set[str]:
    """Every error of a run stands on the page as what it was, and all else there is completed.

    Returns the kinds of the errors.
    """
    summary = ended.json
    errors = summary["errors"]
    tasks = dict(on_the_page(project, summary["run_id"], completed + len(errors)))
    for error in errors:
        sentence = f"{error['message']}. {error['hint']}" if error["hint"] else error["message"]
        if error["request_id"] and error["request_id"] not in sentence:
            sentence = f"Request {error['request_id']}: {sentence}"
        [name, *_] = [
            name
            for name, task in tasks.items()
            if name.endswith(f" · {error['stage']}") and task["state"]["message"] == sentence
        ] or [f"no {error['stage']} says: {sentence}"]
        state = tasks.pop(name)["state"]
        assert (state["type"], state["name"]) == ENDS[error["kind"]], name
    assert {task["state_type"] for task in tasks.values()} <= {"COMPLETED"}
    assert {task["state_name"] for task in tasks.values()} <= {"Completed", "Cached"}
    said = project.prefect(
        "POST", "logs/filter", json={"logs": {"flow_run_id": {"any_": [summary["run_id"]]}}}
    )
    told = [one["message"] for one in said]
    assert not [one for one in told if "Traceback" in one or "NoneType: None" in one]
    return {error["kind"] for error in errors}


def test_what_ends_in_its_own_files_is_told_stage_by_stage(project: Project) -> None:
    model = project.directory / "configs/models/acme/priceless.json"
    model.parent.mkdir()
    entry = json.loads((project.directory / f"configs/models/{EDIT}.json").read_text())
    model.write_text(json.dumps(entry | {"model_id": "acme/priceless", "base_price_usd": None}))
    (project.directory / "one.yaml").write_text(ONE_OF_EACH)
    shelf = project.directory / "shelf"
    (shelf / "taken").mkdir(parents=True)
    (shelf / "taken/picture.png").write_text("somebody else's")
    (shelf / "unwritable").write_text("a file, where a folder should be")

    ended = project.comfyline("run", "one.yaml", "--json")

    # All six of one; five before each of what cannot be stored, two before the refused claim.
    kinds = expect(project, ended, completed=6 + 3 * 5 + 2)
    assert kinds == {"input-invalid", "name-taken", "unreachable", "rejected", "over-budget"}


def test_what_ends_at_runcomfy_is_told_stage_by_stage(project: Project) -> None:
    prompt = "an office seen on the page"
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "status", "code": 422})
    project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-after"})
    # The one whose answer is lost may take one of them.
    project.sandbox("POST", "faults", json={"on": "generation", "kind": "fail", "times": 2})
    hold = {"on": "generation", "kind": "delay", "seconds": 4, "times": 8}
    project.sandbox("POST", "faults", json=hold)
    wanted = f"steps.edit.input.prompt={prompt}"
    with project.start("run", PIPELINE, "--set", wanted, "--json") as process:
        project.until(
            lambda: (
                len(accepted := project.accepted(prompt)) == 8
                and any(one.error_kind == "generation-failed" for one in accepted)
            )
        )
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)

    kinds = expect(project, Ended(process.returncode or 0, stdout, stderr), completed=8 * 3 + 2 * 2)
    assert kinds == {"refused", "in-doubt", "generation-failed", "cancelled", "interrupted"}


@pytest.mark.thorough
def test_a_job_that_goes_on_is_told_and_no_failure_is_remembered(project: Project) -> None:
    prompt = "an office that takes its time"
    only = ("--limit", "1", "--set", "matrix.aspect_ratio=[1:1]")
    profiles = project.directory / "configs/profiles"
    nowhere = (profiles / "sandbox.yaml").read_text().replace("s3://comfyline", "s3://nowhere")
    (profiles / "nowhere.yaml").write_text(nowhere)

    unsent = project.run(prompt, *only, "--profile", "nowhere")
    kind = expect(project, unsent, completed=1)
    assert kind <= {"unfetchable", "unreachable"}

    hold = {"on": "generation", "kind": "delay", "seconds": 3}
    project.sandbox("POST", "faults", json=hold)
    late = project.run(prompt, *only, "--set", "limits.timeout=1s")
    assert expect(project, late, completed=3) == {"deadline"}

    project.sandbox("POST", "faults", json={"on": "cdn", "kind": "empty", "times": 100})
    broken = project.run(prompt, *only)
    assert expect(project, broken, completed=1) == {"broken-output"}

    # More often than one fetch asks by itself: it is repeated, and is one stage all the same.
    project.sandbox("DELETE", "faults")
    project.sandbox("POST", "faults", json={"on": "cdn", "kind": "empty", "times": 8})
    mended = project.run(prompt, *only)
    assert (mended.code, mended.json["submitted"]) == (0, 0), mended.stderr
    assert expect(project, mended, completed=2) == set()
    assert len(project.charges(prompt)) == 1
