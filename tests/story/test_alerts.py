"""`comfyline alerts apply` at a real Prefect server: what differs is changed, and nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.story.conftest import Project

FILE = """\
notify: custom-webhook/story
automations:
  - name: "comfyline: first"
    trigger:
      type: event
      expect: [nobody.emits.this, nor.this]
      match: {prefect.resource.id: ["nobody.*", "no.one"]}
      match_related:
        - {prefect.resource.role: flow, prefect.resource.name: [none, such]}
        - {prefect.resource.role: tag}
      within: 15m
    actions:
      - type: send-notification
        subject: "{{ event.event }}"
        body: told
      - type: call-webhook
        block: custom-webhook/story
      - {type: change-flow-run-state, state: CRASHED}
  - name: "comfyline: second"
    description: Never fires either.
    tags: [b, a]
    trigger:
      type: compound
      require: all
      within: 1h
      triggers:
        - {type: event, expect: [one.thing], posture: Proactive, within: 2h, for_each: [a, b]}
        - {type: event, expect: [another.thing], after: [d, c]}
    actions: [{type: do-nothing}]
"""
WRONG = """\
automations:
  - name: "a run failed"
    trigger: {type: event}
    actions: [{type: do-nothing}]
  - name: "comfyline: a"
    trigger: {type: event, expct: [x], within: soon}
    actions:
      - {type: send-notification, body: "{{ event"}
      - {type: run-deployment, deployment: pipeline/nigthly}
      - {type: call-webhook, block: webhook/none}
      - {type: mail}
"""


@pytest.fixture
def alerts(project: Project) -> Iterator[Project]:
    """A project with a block for notifications; no automation outlives the test."""
    code = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block; "
        'Block(name="story", url="http://127.0.0.1:9/").save("story", overwrite=True)'
    )
    subprocess.run([sys.executable, "-c", code], env=project.environment, check=True)
    yield project
    for one in automations(project):
        project.prefect("DELETE", f"automations/{one['id']}")


def automations(project: Project) -> list[dict[str, Any]]:
    return list(project.prefect("POST", "automations/filter", json={}))


def write(project: Project, text: str) -> str:
    path = project.directory / "alerts.yaml"
    path.write_text(text)
    return path.name


def test_a_second_time_changes_nothing_an_edit_is_updated_and_pruning_removes_only_ours(
    alerts: Project,
) -> None:
    foreign = {
        "name": "somebody else's",
        "trigger": {
            "type": "event",
            "expect": ["nobody.emits.this"],
            "posture": "Reactive",
            "threshold": 1,
            "within": 0,
        },
        "actions": [{"type": "do-nothing"}],
    }
    alerts.prefect("POST", "automations/", json=foreign)
    path = write(alerts, FILE)
    rehearsed = alerts.comfyline("alerts", "apply", path, "--dry-run")
    assert rehearsed.code == 0, rehearsed.stderr
    assert rehearsed.stdout.splitlines() == [
        "+ comfyline: first: would be created",
        "+ comfyline: second: would be created",
    ]
    assert [one["name"] for one in automations(alerts)] == ["somebody else's"]
    assert alerts.comfyline("alerts", "apply", path).stdout.splitlines() == [
        "+ comfyline: first: created",
        "+ comfyline: second: created",
    ]
    made = automations(alerts)

    again = alerts.comfyline("alerts", "apply", path, "--prune", "--json")
    assert again.json == [
        {"name": "comfyline: first", "action": "unchanged", "differences": []},
        {"name": "comfyline: second", "action": "unchanged", "differences": []},
    ]
    assert automations(alerts) == made

    path = write(alerts, FILE.replace("15m", "20m").replace("body: told", "body: said"))
    [paused] = [one["id"] for one in made if one["name"] == "comfyline: second"]
    alerts.prefect("PATCH", f"automations/{paused}", json={"enabled": False})
    assert alerts.comfyline("alerts", "apply", path).stdout.splitlines() == [
        "~ comfyline: first: updated: trigger.within, actions[0].body",
        "~ comfyline: second: updated: enabled",
    ]
    assert {one["id"] for one in automations(alerts)} == {one["id"] for one in made}

    path = write(alerts, FILE.partition('  - name: "comfyline: second"')[0])
    kept = alerts.comfyline("alerts", "apply", path).stdout.splitlines()
    assert kept[-1] == "? comfyline: second: is in no file; --prune removes it"
    gone = alerts.comfyline("alerts", "apply", path, "--prune").stdout.splitlines()
    assert gone[-1] == "- comfyline: second: removed"
    names = [one["name"] for one in automations(alerts)]
    assert sorted(names) == ["comfyline: first", "somebody else's"]


def test_every_mistake_is_told_at_its_place_and_nothing_is_changed(alerts: Project) -> None:
    right, wrong = write(alerts, FILE), alerts.directory / "wrong.yaml"
    wrong.write_text(WRONG)
    ended = alerts.comfyline("alerts", "apply", right, "wrong.yaml")
    assert ended.code == 65
    assert automations(alerts) == []
    assert "wrong.yaml:2:5: `name` does not accept" in ended.stderr
    wrong.write_text(WRONG.replace('"a run failed"', '"comfyline: first"'))
    ended = alerts.comfyline("alerts", "apply", right, "wrong.yaml")
    assert automations(alerts) == []
    for told in (
        "wrong.yaml:2:5: there is a second automation `comfyline: first`",
        "wrong.yaml:6:28: unknown key `expct`\n    did you mean `expect`?",
        "wrong.yaml:6:40: `within` should be a duration",
        "wrong.yaml:8:35: not a template",
        "wrong.yaml:9:32: there is no deployment `pipeline/nigthly`",
        "wrong.yaml:10:30: there is no block `webhook/none`",
        "wrong.yaml:11:10: there is no type `mail`",
    ):
        assert told in ended.stderr, f"{told}\n\n{ended.stderr}"
    assert "wrong.yaml:1:1: there is no block that is to be notified" in ended.stderr


def test_the_automations_of_the_project_are_what_is_applied_without_a_file(
    alerts: Project,
) -> None:
    ended = alerts.comfyline("alerts", "apply", "--notify", "custom-webhook/none", "--dry-run")
    assert ended.code == 65
    assert "--notify custom-webhook/none: there is no block" in ended.stderr
    # The project's folder has them: whatever lies there is read.
    more = alerts.directory / "configs/automations/more.yaml"
    more.write_text(WRONG)
    ended = alerts.comfyline("alerts", "apply", "--dry-run")
    assert ended.code == 65
    assert "configs/automations/comfyline.yaml:10:1: there is no block" in ended.stderr
    assert "configs/automations/more.yaml:2:5: `name`" in ended.stderr
