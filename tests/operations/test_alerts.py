"""What is to change of the automations at a server, and which scheduled time was missed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from comfyline.operations.alerts import PREFIX, AlertChange, missed_slot, plan_alerts

NAMES = [f"{PREFIX}a run failed", f"{PREFIX}in doubt", f"{PREFIX}budget"]
FOREIGN = ["somebody else's", "comfyline without a colon"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b", "c"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["within", "match", "parameters"]), inner, max_size=3)
    ),
    max_leaves=6,
)
EVENTS = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3)
TRIGGER = st.fixed_dictionaries({"expect": EVENTS, "rest": VALUES})
FILES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES), "trigger": TRIGGER, "actions": st.lists(VALUES)}
    ),
    unique_by=lambda one: one["name"],
)
SERVER = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES + FOREIGN), "trigger": TRIGGER, "actions": st.lists(VALUES)}
    ),
    max_size=6,
).map(lambda found: [one | {"id": str(number)} for number, one in enumerate(found)])

Automations = Sequence[Mapping[str, Any]]


def carried_out(
    changes: Sequence[AlertChange], wanted: Automations, there: Automations
) -> list[dict[str, Any]]:
    """What a server has after these changes; it returns what it has in an order of its own."""
    by_name = {one["name"]: one for one in wanted}
    by_id = {one["id"]: dict(one) for one in there}
    for number, change in enumerate(changes):
        match change.action:
            case "created":
                new = f"new-{number}"
                by_id[new] = dict(by_name[change.name]) | {"id": new}
            case "updated":
                by_id[change.id] = dict(by_name[change.name]) | {"id": change.id}
            case "removed":
                del by_id[change.id]
    turned = [
        one | {"trigger": one["trigger"] | {"expect": one["trigger"]["expect"][::-1]}}
        for one in by_id.values()
    ]
    return sorted(turned, key=lambda one: str(one["id"]))


@given(wanted=FILES, there=SERVER, prune=st.booleans())
def test_what_was_applied_is_unchanged_the_next_time(
    wanted: Automations, there: Automations, *, prune: bool
) -> None:
    changes = plan_alerts(wanted, there, prune=prune)
    after = carried_out(changes, wanted, there)
    again = plan_alerts(wanted, after, prune=prune)
    assert {one.action for one in again} <= {"unchanged", "left"}
    assert [one.name for one in again if one.action == "unchanged"] == [w["name"] for w in wanted]


@given(wanted=FILES, there=SERVER, prune=st.booleans())
def test_nothing_of_others_is_touched_and_pruning_leaves_only_what_the_files_say(
    wanted: Automations, there: Automations, *, prune: bool
) -> None:
    after = carried_out(plan_alerts(wanted, there, prune=prune), wanted, there)
    assert [one["id"] for one in after if one["name"] in FOREIGN] == [
        one["id"] for one in there if one["name"] in FOREIGN
    ]
    ours = [one["name"] for one in after if one["name"] not in FOREIGN]
    if prune:
        assert sorted(ours) == sorted(one["name"] for one in wanted)
    else:
        kept = {one["id"] for one in there}
        assert kept <= {one["id"] for one in after}


def test_a_difference_is_named_as_deep_as_it_lies() -> None:
    there = {"name": NAMES[0], "trigger": {"expect": ["x"], "within": 60.0}, "actions": [{"b": 1}]}
    wanted = there | {"trigger": {"expect": ["x"], "within": 90.0}, "actions": [{"b": 2}]}
    [change] = plan_alerts([wanted], [there | {"id": "1"}], prune=False)
    assert change == AlertChange(NAMES[0], "updated", "1", ("trigger.within", "actions[0].b"))


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTES = st.integers(0, 600).map(lambda minutes: timedelta(minutes=minutes))


@given(
    st.lists(MINUTES.map(lambda ago: NOON - ago)),
    st.none() | MINUTES.map(lambda ago: NOON - ago),
    MINUTES,
)
def test_a_time_is_missed_when_its_window_is_over_and_nothing_completed_since(
    slots: list[datetime], completed: datetime | None, window: timedelta
) -> None:
    missed = missed_slot(slots, completed, window, NOON)
    due = [slot for slot in slots if slot <= NOON - window]
    if missed is None:
        assert not due or (completed is not None and completed >= max(due))
    else:
        assert missed == max(due)
        assert completed is None or completed < missed


def test_the_operations_page_says_for_every_alert_what_to_do() -> None:
    root = Path(__file__).parents[2]
    files = [yaml.safe_load(one.read_text()) for one in root.glob("configs/automations/*.yaml")]
    names = [one["name"].removeprefix(PREFIX) for file in files for one in file["automations"]]
    page = (root / "docs/operations.md").read_text()
    assert len(names) > 6
    assert [name for name in names if f"| {name} |" not in page] == []
