"""Render a step to its jobs for one item, or for all: conditions, fan-out, templates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Item, Job, MediaKind, Placement, Pointer, Written
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.labels import label_value
from comfyline.pipeline.output_names import output_name
from comfyline.pipeline.templates import render, render_text
from comfyline.redact import for_people
from comfyline.yaml.file import LocatedYaml, Mistake, field_path

_TEMPLATE = re.compile(r"\{[{%#]")
_FIELD_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)", re.ASCII)
_OF_STEP = {"model", "input", "variant", "when", "for_each", "collect"}
_CONTROL = re.compile(r"[\x00-\x1f]")
_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0", ""}


Row = tuple[Item, Mapping[str, Any]]
"""An item with one combination of the matrix."""


@dataclass(frozen=True, slots=True)
class RunScope:
    """What templates may know of the run; `date` is ISO, such as 2026-01-31."""

    id: str
    date: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """An output as later steps see it. Its kind is None while nobody can know it.

    `is_old`: it was made by an earlier run and lies where that one put it.
    """

    address: str
    kind: MediaKind | None
    is_old: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """The jobs of a step for one item, or the mistakes that keep them from being made."""

    jobs: tuple[Job, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """The place of each field of one step: `office.yaml:14:9: steps.edit.input.aspect_ratio`."""

    located: LocatedYaml
    step: str

    def where(self, field: str) -> str:
        """Return the place and the path of a field, as people look for it.

        `field` is one of the model's input, such as `image_urls[0]`; or `variant`, `output.to` and
        the like, unless the step's input has a field of that name.
        """
        pointer = self._pointer(field)
        return f"{self.located.where(pointer)}: {field_path(pointer)}"

    def _pointer(self, field: str) -> Pointer:
        at: Pointer = ("steps", self.step)
        parts: Pointer = tuple(
            int(index) if index else name for index, name in _FIELD_PART.findall(field)
        )
        first = parts[0] if parts else ""
        # What a step takes over from an anchor or a base has a place as well.
        if (*at, "input", first) in self.located.positions:
            return (*at, "input", *parts)
        if first == "output":
            own = (*at, *parts)
            return own if own in self.located.positions else parts
        return (*at, *parts) if first in _OF_STEP else (*at, "input", *parts)


class JobWriter:
    """Render the steps of one pipeline in one run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._written: dict[str, Written] = {
            name: WrittenStep(pipeline.yaml, name) for name in pipeline.document.steps
        }

    def blank(self, step: str, item: str, settings: Mapping[str, Any]) -> Job:
        """Return a job of which nothing but its name is known."""
        return Job(
            pipeline=self._pipeline.name,
            item=item,
            step=step,
            model_id=self._pipeline.document.steps[step].model,
            inputs={},
            placement=Placement("", "", {}),
            settings=for_people(dict(settings)),
            source=self._pipeline.yaml.where(("steps", step)),
        )

    def jobs(
        self,
        name: str,
        settings: Mapping[str, Any],
        known: Mapping[str, Any],
        outputs: Mapping[str, Sequence[Made]],
        covered: Sequence[Row],
    ) -> Rendered:
        """Render a step for one item and combination, or for all that it collects.

        `known` is what its templates may use besides `matrix` and `steps`, `covered` what it is
        for: its jobs have the labels on which all of these agree.
        """
        rendered = self._rendered(name, settings, known, outputs)
        if not (rendered.jobs and self._pipeline.document.labels):
            return rendered
        labels, problems = self._labels(known, covered)
        jobs = () if problems else tuple(replace(job, labels=labels) for job in rendered.jobs)
        return Rendered(jobs, (*rendered.problems, *problems))

    def _labels(
        self, known: Mapping[str, Any], covered: Sequence[Row]
    ) -> tuple[dict[str, str], list[Problem]]:
        labels: dict[str, str] = {}
        problems: list[Problem] = []
        for name, text in sorted(self._pipeline.document.labels.items()):
            values: set[str] = set()
            for item, settings in covered:
                row = {"item": item.fields, "item_name": item.name, "matrix": settings}
                value, mistakes = _label(text, {**known, **row})
                problems += self._located(mistakes, ("labels", name))
                values.add(value)
                if mistakes or len(values) > 1:
                    break
            if len(values) == 1 and "" not in values:
                labels[name] = value
        return labels, problems

    def _rendered(
        self,
        name: str,
        settings: Mapping[str, Any],
        known: Mapping[str, Any],
        outputs: Mapping[str, Sequence[Made]],
    ) -> Rendered:
        step = self._pipeline.document.steps[name]
        seen = {used: _as_seen(made) for used, made in outputs.items()}
        scope = {**known, "matrix": settings, "steps": seen}
        if step.for_each is None:
            return self._one(name, {**scope, "each_index": 0}, None)
        entries, mistakes = render(step.for_each, scope)
        if not mistakes and not isinstance(entries, list):
            mistakes = [Mistake((), "`for_each` should give a list", "{{ steps.NAME.images }}")]
        if mistakes:
            return Rendered((), self._located(mistakes, ("steps", name, "for_each")))
        parts = [
            self._one(name, {**scope, "each": each, "each_index": part}, part)
            for part, each in enumerate(entries)
        ]
        return Rendered(
            tuple(job for part in parts for job in part.jobs),
            tuple(problem for part in parts for problem in part.problems),
        )

    def _one(self, name: str, scope: Mapping[str, Any], part: int | None) -> Rendered:
        at: Pointer = ("steps", name)
        step, settings = self._pipeline.document.steps[name], scope["matrix"]
        applies, mistakes = _applies(step.when, scope)
        if mistakes:
            return Rendered((), self._located(mistakes, (*at, "when")))
        if not applies:
            return Rendered(())
        model_id, model_mistakes = render_text(step.model, scope)
        inputs, input_mistakes = render(step.input, scope)
        variant, variant_mistakes = render(step.variant, scope)
        output = self._pipeline.document.output
        folder, folder_mistakes = _folder(step.output.to or output.to, scope)
        placement = Placement(
            folder,
            step.output.name or output.name or _default_name(settings, part),
            for_people({key: scope[key] for key in scope if key not in {"steps", "items"}}),
            output.on_conflict,
            _root(step.output.to or output.to, folder),
            tuple(output.accept),
        )
        to_at, name_at = (
            (*at, "output") if own else ("output",) for own in (step.output.to, step.output.name)
        )
        rendered = (
            ((*at, "model"), model_mistakes),
            ((*at, "input"), input_mistakes),
            ((*at, "variant"), variant_mistakes),
            ((*to_at, "to"), folder_mistakes),
            ((*name_at, "name"), _name_mistakes(placement)),
        )
        problems = tuple(
            problem for parent, mistakes in rendered for problem in self._located(mistakes, parent)
        )
        if problems:
            return Rendered((), problems)
        job = Job(
            pipeline=self._pipeline.name,
            item=scope["item_name"],
            step=name,
            model_id=model_id,
            inputs=inputs,
            placement=placement,
            variant=variant,
            settings=for_people(settings),
            source=self._pipeline.yaml.where(at),
            part=part,
            preparation=step.preparation,
            checks=step.checks.value if step.checks else None,
            written=self._written[name],
        )
        return Rendered((job,))

    def _located(self, mistakes: Sequence[Mistake], parent: Pointer) -> tuple[Problem, ...]:
        return tuple(mistake.at(self._pipeline.yaml, parent) for mistake in mistakes)


def _as_seen(made: Sequence[Made]) -> dict[str, Any]:
    """Return a step's outputs as templates find them; one of unknown kind is of every kind."""
    seen: dict[str, Any] = {"files": [one.address for one in made]}
    for kind in ("image", "video", "audio"):
        seen[f"{kind}s"] = [one.address for one in made if one.kind in {kind, None}]
        if seen[f"{kind}s"]:
            seen[kind] = seen[f"{kind}s"][0]
    return seen


def _applies(when: Any, scope: Mapping[str, Any]) -> tuple[bool, list[Mistake]]:
    value, mistakes = render(when, scope)
    if mistakes:
        return False, mistakes
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in _YES | _NO:
            return False, [Mistake((), f"`when` should give true or false, not {value!r}")]
        return word in _YES, []
    return bool(value), []


def _label(text: str, scope: Mapping[str, Any]) -> tuple[str, list[Mistake]]:
    value, mistakes = render_text(text, scope)
    try:
        return label_value(value), mistakes
    except ValueError as error:
        return "", [Mistake((), str(error))]


def _default_name(settings: Mapping[str, Any], part: int | None) -> str:
    """Return a template that tells all outputs of one step apart."""
    parts = ["item_name", *(f"matrix.{name}" for name in settings), "step"]
    parts += ["index"] if part is None else ["each_index", "index"]
    return "-".join(f"{{{{ {part} }}}}" for part in parts) + ".{{ ext }}"


def _folder(template: str, scope: Mapping[str, Any]) -> tuple[str, list[Mistake]]:
    folder, mistakes = render_text(template, scope)
    if mistakes:
        return "", mistakes
    if not folder.strip():
        return "", [Mistake((), "the folder is empty once rendered")]
    if _CONTROL.search(folder):
        return "", [Mistake((), f"the folder contains a control character: {folder!r}")]
    # A folder above may be written, but must not come out of an item's values.
    if ".." in folder and ".." in PurePath(folder).parts and ".." not in PurePath(template).parts:
        return "", [Mistake((), f"an item's value leads outside of the folder: {folder!r}")]
    return folder, []


def _root(template: str, folder: str) -> str:
    """Return the part of a local folder that is written out, above what comes from an item."""
    written = _TEMPLATE.split(template, maxsplit=1)[0]
    is_local = "://" not in folder or folder.startswith("file://")
    return written.rpartition("/")[0] if is_local and written != template else ""


def _name_mistakes(placement: Placement) -> list[Mistake]:
    try:
        output_name(placement, 0, "png")
    except InputInvalid as error:
        return [Mistake((), problem.message, problem.hint) for problem in error.problems]
    return []
