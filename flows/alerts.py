"""Bring the automations at a Prefect server to what files say; repeating it changes nothing.

All that is wrong in the files is found before anything is changed. A crash in between leaves some
automations as they were: the next time finishes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args
from uuid import UUID

import jinja2
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import ActionTypes
from prefect.events.schemas.automations import (
    Automation,
    AutomationCore,
    CompoundTrigger,
    EventTrigger,
    SequenceTrigger,
)
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel

from comfyline.config.duration import parse_duration
from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.operations.alerts import PREFIX, AlertChange, AlertsDocument, plan_alerts
from comfyline.yaml.file import LocatedYaml, texts_in
from comfyline.yaml.validate import validate_document

_ACTIONS: Mapping[str, type[BaseModel]] = {
    str(one.model_fields["type"].default): one for one in get_args(ActionTypes)
}
_TRIGGERS: Mapping[str, type[BaseModel]] = {
    "event": EventTrigger,
    "compound": CompoundTrigger,
    "sequence": SequenceTrigger,
}
_NOTIFY = "send-notification"
_UNRESOLVED = "00000000-0000-0000-0000-000000000000"
"""Stands for what is not at the server, so that the rest can be checked all the same."""
_PAGE = 200


async def apply_alerts(
    files: Sequence[LocatedYaml], notify: str | None, *, prune: bool, dry_run: bool
) -> list[AlertChange]:
    """Create, update and, with `prune`, remove automations; return what was done with each.

    `notify` is the notification block as TYPE/NAME, before what the files say. Raises
    `InputInvalid` with every mistake in the files, before anything is changed.
    """
    async with get_client() as prefect:
        reader = _Reader(prefect, notify)
        for located in files:
            await reader.read(located)
        if reader.problems:
            raise InputInvalid(dict.fromkeys(reader.problems))
        wanted = {name: automation for name, (automation, _) in reader.automations.items()}
        changes = plan_alerts(
            [one.model_dump(mode="json") for one in wanted.values()],
            [one.model_dump(mode="json") for one in await _automations(prefect)],
            prune=prune,
        )
        for change in [] if dry_run else changes:
            try:
                await _make(change, wanted, prefect)
            except PrefectHTTPStatusError as error:
                # It understands the words, and does not take what they say.
                if not error.response.is_client_error:
                    raise
                where = reader.automations[change.name][1] if change.name in wanted else change.name
                message = f"the Prefect server refuses it: {_detail(error)}"
                raise InputInvalid([Problem(where, message)]) from None
        return changes


async def _automations(prefect: PrefectClient) -> list[Automation]:
    """List those of ours that the server has, in the order in which they were made."""
    found: list[dict[str, Any]] = []
    while True:
        body = {"sort": "CREATED_DESC", "limit": _PAGE, "offset": len(found)}
        page = (await prefect.request("POST", "/automations/filter", json=body)).json()
        found += page
        if len(page) < _PAGE:
            # Those of others may be of kinds that this version of Prefect does not know.
            ours = [one for one in found if one["name"].startswith(PREFIX)]
            return [Automation.model_validate(one) for one in ours[::-1]]


async def _make(
    change: AlertChange, wanted: Mapping[str, AutomationCore], prefect: PrefectClient
) -> None:
    match change.action:
        case "created":
            await prefect.create_automation(wanted[change.name])
        case "updated":
            await prefect.update_automation(UUID(change.id), wanted[change.name])
        case "removed":
            await prefect.delete_automation(UUID(change.id))


def _detail(error: PrefectHTTPStatusError) -> str:
    """Return what the server says of a refused automation, in a line."""
    try:
        told = error.response.json()
    except ValueError:
        return f"status {error.response.status_code}"
    details = told.get("exception_detail") or told.get("detail") or "no reason is given"
    if isinstance(details, list):
        details = "; ".join(str(one.get("msg", one)) for one in details)
    return str(details)


class _Reader:
    """Read automations from files: names become the server's ids; every mistake is collected."""

    def __init__(self, prefect: PrefectClient, notify: str | None) -> None:
        self.problems: list[Problem] = []
        self.automations: dict[str, tuple[AutomationCore, str]] = {}
        """By name, each with its place."""
        self._prefect = prefect
        self._notify = notify
        self._blocks: dict[str, tuple[str, str]] = {}
        self._deployments: dict[str, tuple[str, str]] = {}

    async def read(self, located: LocatedYaml) -> None:
        """Read one file."""
        try:
            document = validate_document(located, AlertsDocument)
        except InputInvalid as error:
            self.problems += error.problems
            return
        notify = self._notify or document.notify
        for index, section in enumerate(document.automations):
            at: Pointer = ("automations", index)
            before = len(self.problems)
            trigger = deepcopy(section.trigger)
            self._read_durations(located, (*at, "trigger"), trigger)
            self._check(located, (*at, "trigger"), trigger, _TRIGGERS)
            actions = [
                await self._action(located, (*at, "actions", number), action, notify)
                for number, action in enumerate(section.actions)
            ]
            where = located.where((*at, "name"))
            if section.name in self.automations:
                other = self.automations[section.name][1]
                hint = f"give it another name than the one at {other}"
                self._problem(where, f"there is a second automation `{section.name}`", hint)
            if len(self.problems) == before:
                given = section.model_dump() | {"trigger": trigger, "actions": actions}
                automation = AutomationCore.model_validate(given)
                # With every default written out: an update sends only what was set.
                whole = automation.model_dump(mode="json", exclude={"owner_resource"})
                self.automations[section.name] = AutomationCore.model_validate(whole), where

    def _problem(self, where: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(where, message, hint))

    def _read_durations(self, located: LocatedYaml, at: Pointer, trigger: dict[str, Any]) -> None:
        """Turn `within: 26h` into seconds, which is what the server takes."""
        if "within" in trigger:
            try:
                trigger["within"] = parse_duration(trigger["within"])
            except ValueError as error:
                trigger["within"] = 10.0
                self._problem(located.where((*at, "within")), f"`within` {error}")
        inner = trigger.get("triggers")
        for index, one in enumerate(inner if isinstance(inner, list) else []):
            if isinstance(one, dict):
                self._read_durations(located, (*at, "triggers", index), one)

    async def _action(
        self, located: LocatedYaml, at: Pointer, written: Mapping[str, Any], notify: str | None
    ) -> dict[str, Any]:
        """Read one action, with the ids in place of the names."""
        action = dict(written)
        kind = action.get("type")
        if (named := action.pop("deployment", None)) is not None:
            place = located.where((*at, "deployment"))
            action["deployment_id"] = await self._deployment(str(named), place)
        if kind == _NOTIFY and "block" not in action and "block_document_id" not in action:
            if notify is None:
                hint = (
                    "`comfyline alerts apply --notify slack-webhook/NAME`, or `notify:` at the top "
                    'of the file; docs/operations.md, "Alerts", says how to create the block'
                )
                message = "there is no block that is to be notified"
                self._problem(located.where(("automations",)), message, hint)
                action["block_document_id"] = _UNRESOLVED
            else:
                by_option = notify == self._notify
                place = f"--notify {notify}" if by_option else located.where(("notify",))
                action["block_document_id"] = await self._block(notify, place, "notify")
        elif (named := action.pop("block", None)) is not None:
            capability = "notify" if kind == _NOTIFY else ""
            place = located.where((*at, "block"))
            action["block_document_id"] = await self._block(str(named), place, capability)
        self._check(located, at, action, _ACTIONS)
        return action

    def _check(
        self,
        located: LocatedYaml,
        at: Pointer,
        value: dict[str, Any],
        classes: Mapping[str, type[BaseModel]],
    ) -> None:
        """Hold a trigger or an action against Prefect's description of its type."""
        kind = value.get("type")
        described = classes.get(str(kind))
        if described is None:
            hint = did_you_mean(str(kind), list(classes)) or "there are: " + ", ".join(classes)
            message = f"there is no type `{kind}`" if "type" in value else "`type` is missing"
            self._problem(located.where((*at, "type")), message, hint)
            return
        places = {
            p[len(at) :]: place for p, place in located.positions.items() if p[: len(at)] == at
        }
        part = LocatedYaml(located.path, value, places)
        try:
            taken = validate_document(part, described).model_dump(mode="json")
        except InputInvalid as error:
            self.problems += error.problems
            return
        for pointer, key, allowed in _unknown_keys(value, taken, ()):
            hint = did_you_mean(key, allowed) or "allowed here: " + ", ".join(allowed)
            self._problem(part.where(pointer), f"unknown key `{key}`", hint)
        for pointer, text in texts_in(value):
            try:
                jinja2.Environment(autoescape=True).parse(text)
            except jinja2.TemplateSyntaxError as error:
                why = str(error.message).rstrip(".")
                self._problem(part.where(pointer), f"not a template: {why}")

    async def _deployment(self, name: str, where: str) -> str:
        """Return the id of a deployment that is named FLOW/DEPLOYMENT."""
        try:
            return str((await self._prefect.read_deployment_by_name(name)).id)
        except (ObjectNotFound, ValueError):
            found = await self._prefect.read_deployments(limit=_PAGE)
            flows = {one.flow_id for one in found}
            names = {id_: (await self._prefect.read_flow(id_)).name for id_ in flows}
            known = sorted(f"{names[one.flow_id]}/{one.name}" for one in found)
            hint = did_you_mean(name, known) or "`prefect --no-prompt deploy --all` makes those of "
            hint += "" if hint.startswith("did") else "prefect.yaml"
            self._problem(where, f"there is no deployment `{name}` at this Prefect server", hint)
            return _UNRESOLVED

    async def _block(self, name: str, where: str, capability: str) -> str:
        """Return the id of a block that is named TYPE/NAME, without reading what it holds."""
        if (document := await self._block_document(name)) is None:
            kind, _, block = name.partition("/")
            hint = (
                f'docs/operations.md, "Alerts", creates one: SlackWebhook(url="…").save("{block}")'
                if kind == "slack-webhook"
                else 'docs/operations.md, "Alerts", says how to create one'
            )
            self._problem(where, f"there is no block `{name}` at this Prefect server", hint)
            return _UNRESOLVED
        schema = document.block_schema
        if capability and (schema is None or capability not in schema.capabilities):
            message = f"the block `{name}` cannot notify"
            self._problem(where, message, "name one such as slack-webhook/NAME")
        return str(document.id)

    async def _block_document(self, name: str) -> BlockDocument | None:
        kind, _, block = name.partition("/")
        try:
            return await self._prefect.read_block_document_by_name(
                block, kind, include_secrets=False
            )
        except ObjectNotFound:
            return None


def _unknown_keys(
    written: Any, taken: Any, at: Pointer
) -> Iterator[tuple[Pointer, str, list[str]]]:
    """Yield the keys that Prefect passes over in silence, each with those that it knows there."""
    if isinstance(written, Mapping) and isinstance(taken, Mapping):
        for key, value in written.items():
            if key not in taken:
                yield (*at, key), str(key), [str(one) for one in taken]
            else:
                yield from _unknown_keys(value, taken[key], (*at, key))
    elif isinstance(written, list) and isinstance(taken, list):
        for index, (value, other) in enumerate(zip(written, taken, strict=False)):
            yield from _unknown_keys(value, other, (*at, index))
