"""Items × matrix × step: the jobs of a run, each rendered, none yet checked against its model."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Item, Job, Placement, Pointer
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.naming import output_name
from comfyline.pipeline.template import Mistake, render, render_text


@dataclass(frozen=True, slots=True)
class RunScope:
    """What templates may know of the run; `date` is ISO, such as 2026-01-31."""

    id: str
    date: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs in order, and every mistake found on the way; a job with a mistake is left out."""

    jobs: tuple[Job, ...]
    problems: tuple[Problem, ...]


def plan_jobs(pipeline: Pipeline, items: Sequence[Item], run: RunScope) -> Plan:
    """Makes one job for each item and each combination of matrix values.

    Items come in their order, and for each the matrix in the order in which its names and values
    are written, the last name changing fastest. The same mistake in many items is told once.
    """
    jobs: list[Job] = []
    found: dict[Problem, list[str]] = {}
    for item in items:
        for settings in _combinations(pipeline.document.matrix):
            job, problems = _job(pipeline, item, settings, run)
            for problem in problems:
                names = found.setdefault(problem, [])
                if item.name not in names[-1:]:
                    names.append(item.name)
            if job is not None:
                jobs.append(job)
    return Plan(tuple(jobs), tuple(_for_items(problem, names) for problem, names in found.items()))


def _combinations(matrix: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _job(
    pipeline: Pipeline, item: Item, settings: Mapping[str, Any], run: RunScope
) -> tuple[Job | None, list[Problem]]:
    document = pipeline.document
    [(step_name, step)] = document.steps.items()
    scope = {
        "item": item.fields,
        "item_name": item.name,
        "matrix": settings,
        "run": {"id": run.id, "date": run.date},
        "step": step_name,
    }
    at: Pointer = ("steps", step_name)
    model_id, model_mistakes = render_text(step.model, scope)
    inputs, input_mistakes = render(step.input, scope)
    variant, variant_mistakes = render(step.variant, scope)
    folder, folder_mistakes = _folder(document.output.to, scope)
    placement = Placement(folder, document.output.name or _default_name(settings), scope)
    rendered = (
        ((*at, "model"), model_mistakes),
        ((*at, "input"), input_mistakes),
        ((*at, "variant"), variant_mistakes),
        (("output", "to"), folder_mistakes),
        (("output", "name"), _name_mistakes(placement)),
    )
    problems = [
        mistake.at(pipeline.yaml, parent) for parent, mistakes in rendered for mistake in mistakes
    ]
    if problems:
        return None, problems
    job = Job(
        pipeline=pipeline.name,
        item=item.name,
        step=step_name,
        model_id=model_id,
        inputs=inputs,
        placement=placement,
        variant=variant,
        settings=settings,
        source=pipeline.yaml.where(at),
    )
    return job, []


def _default_name(settings: Mapping[str, Any]) -> str:
    """A template that tells all outputs of one step apart."""
    parts = ["item_name", *(f"matrix.{name}" for name in settings), "step", "index"]
    return "-".join(f"{{{{ {part} }}}}" for part in parts) + ".{{ ext }}"


def _folder(template: str, scope: Mapping[str, Any]) -> tuple[str, list[Mistake]]:
    folder, mistakes = render_text(template, scope)
    if mistakes:
        return "", mistakes
    if not folder.strip():
        return "", [Mistake((), "the folder is empty once rendered")]
    if any(character < " " for character in folder):
        return "", [Mistake((), f"the folder holds a control character: {folder!r}")]
    # A folder above may be written, but must not come out of an item's values.
    if ".." in PurePath(folder).parts and ".." not in PurePath(template).parts:
        return "", [Mistake((), f"an item's value leads out of the folder: {folder!r}")]
    return folder, []


def _name_mistakes(placement: Placement) -> list[Mistake]:
    try:
        output_name(placement, 0, "png")
    except InputInvalid as error:
        return [Mistake((), problem.message, problem.hint) for problem in error.problems]
    return []


def _for_items(problem: Problem, names: list[str]) -> Problem:
    if not names[1:]:
        return Problem(problem.where, f"{problem.message} (item {names[0]})", problem.hint)
    more = len(names) - 1
    counted = f"{more} more item" + ("s" if more > 1 else "")
    message = f"{problem.message} (item {names[0]} and {counted})"
    return Problem(problem.where, message, problem.hint)
