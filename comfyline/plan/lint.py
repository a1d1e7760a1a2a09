"""What is wrong with a step's input as it stands in YAML, whatever the rest of the file is like.

A file with a misspelt key has no jobs that could be checked. What is written in its steps can be:
every value that is no template is held against its model's schema.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Pointer
from comfyline.models.check import Mistake, field_path, find_mistakes
from comfyline.models.entry import ModelEntry
from comfyline.pipeline.template import is_template
from comfyline.pipeline.written import WrittenStep
from comfyline.yaml.file import LocatedYaml
from comfyline.yaml.scalars import as_text


def named_models(located: LocatedYaml) -> tuple[str, ...]:
    """The models that the steps name outright, each once."""
    return tuple(dict.fromkeys(model for _, model, _ in _steps(located)))


def static_mistakes(
    located: LocatedYaml, models: Mapping[str, ModelEntry | InputInvalid]
) -> list[Problem]:
    """Every mistake in the steps' inputs that is one whatever the templates turn out to be.

    `models` holds each of `named_models`, or why there is none.
    """
    problems: list[Problem] = []
    for name, model_id, inputs in _steps(located):
        written, found = WrittenStep(located, name), models[model_id]
        if isinstance(found, InputInvalid):
            where = written.where("model")
            problems += (replace(problem, where=where) for problem in found.problems)
            continue
        for mistake in find_mistakes(found, inputs, _is_template):
            at: Pointer = ("steps", name, "input", *mistake.pointer)
            where = written.where(field_path(mistake.pointer))
            problems.append(Problem(where, mistake.message, _hint(located, at, inputs, mistake)))
    return problems


def _steps(located: LocatedYaml) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The steps whose model and input can be told: name, model and input."""
    steps = located.data.get("steps")
    for name, step in steps.items() if isinstance(steps, dict) else ():
        model, inputs = (
            (step.get("model"), step.get("input")) if isinstance(step, dict) else (None, None)
        )
        is_named = isinstance(model, str) and model.strip() and not _is_template(model)
        if is_named and isinstance(inputs, dict):
            yield name, str(model), inputs


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and is_template(value)


def _hint(located: LocatedYaml, at: Pointer, inputs: Mapping[str, Any], mistake: Mistake) -> str:
    """The mistake's own hint, unless YAML turned what was meant as text into something else."""
    spelt = located.spelt.get(at)
    if spelt is None or not mistake.message.startswith("should be text"):
        return mistake.hint
    value: Any = inputs
    for key in mistake.pointer:
        value = value[key]
    return as_text(value, spelt)
