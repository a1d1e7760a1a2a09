"""Decide what of the automations at a Prefect server is to change, and which runs were missed.

Nothing here asks a server: it is given what the files say and what is there, in the same form.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from comfyline.job import Pointer
from comfyline.yaml.file import field_path

PREFIX = "comfyline: "
"""What the name of every automation of ours begins with: nothing else is ever removed."""

_UNORDERED = {"after", "expect", "for_each"}
"""The lists of a trigger whose order means nothing; the server does not keep it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AutomationSection(_Section):
    """One automation, with its trigger and its actions in Prefect's own words."""

    name: str = Field(
        pattern=rf"^{PREFIX}\S", description=f"begins with `{PREFIX}`, by which it is found again"
    )
    description: str = Field("", description="What it is for.")
    enabled: bool = Field(default=True, description="false keeps it at the server without effect.")
    tags: list[str] = Field(default_factory=list, description="Tags on Prefect's page.")
    trigger: dict[str, Any] = Field(description="When it acts: a trigger as Prefect describes it.")
    actions: list[dict[str, Any]] = Field(
        min_length=1,
        description="What it does: Prefect's actions, with `block: TYPE/NAME` and "
        "`deployment: FLOW/NAME` for their ids.",
    )


class AlertsDocument(_Section):
    """A whole file of automations."""

    notify: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+/\S+$",
        description="The notification block that is told, as TYPE/NAME: slack-webhook/comfyline.",
    )
    automations: list[AutomationSection] = Field(min_length=1, description="The automations.")


@dataclass(frozen=True, slots=True)
class AlertChange:
    """What becomes of one automation; `left` is one of ours that is in no file."""

    name: str
    action: Literal["created", "updated", "unchanged", "removed", "left"]
    id: str | None = None
    differences: tuple[str, ...] = ()


def plan_alerts(
    wanted: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]], *, prune: bool
) -> list[AlertChange]:
    """Compare what the files say with what a server has, by name; those of there have an `id`.

    Of several of one name at the server the first is taken; the rest are in no file.
    """
    unclaimed = [one for one in there if str(one["name"]).startswith(PREFIX)]
    changes = []
    for automation in wanted:
        name = str(automation["name"])
        found = next((one for one in unclaimed if one["name"] == name), None)
        if found is None:
            changes.append(AlertChange(name, "created"))
            continue
        unclaimed.remove(found)
        rest = {key: value for key, value in found.items() if key != "id"}
        paths = tuple(field_path(at) for at in _differences(automation, rest, ()))
        changes.append(
            AlertChange(name, "updated" if paths else "unchanged", str(found["id"]), paths)
        )
    end: Literal["removed", "left"] = "removed" if prune else "left"
    return changes + [AlertChange(str(one["name"]), end, str(one["id"])) for one in unclaimed]


def _differences(wanted: Any, there: Any, at: Pointer) -> Iterator[Pointer]:
    """Yield where two values differ, as deep in them as can be told."""
    if isinstance(wanted, Mapping) and isinstance(there, Mapping):
        for key in dict.fromkeys((*wanted, *there)):
            if key not in wanted or key not in there:
                yield (*at, key)
            else:
                yield from _differences(wanted[key], there[key], (*at, key))
        return
    if isinstance(wanted, list) and isinstance(there, list):
        if at and at[-1] in _UNORDERED:
            wanted, there = sorted(wanted), sorted(there)
        elif len(wanted) == len(there):
            for index, pair in enumerate(zip(wanted, there, strict=True)):
                yield from _differences(*pair, (*at, index))
            return
    if wanted != there:
        yield at


def missed_slot(
    slots: Sequence[datetime], completed: datetime | None, window: timedelta, now: datetime
) -> datetime | None:
    """Return the latest scheduled time whose window is over with no run completed since then.

    `completed` is when the deployment's last good run ended.
    """
    due = max((slot for slot in slots if slot + window <= now), default=None)
    if due is None or (completed is not None and completed >= due):
        return None
    return due
