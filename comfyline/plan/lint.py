"""Find what is wrong with a pipeline file: its own mistakes and those of its jobs at once.

A file with a misspelt key has no jobs that could be checked. What is written in its steps can be:
every value that is no template is held against its model's schema.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import Job, Pointer
from comfyline.models.check import Mistake, field_path, find_mistakes
from comfyline.models.entry import ModelEntry
from comfyline.models.library import OfflineModels
from comfyline.pipeline.document import Pipeline, read_pipeline
from comfyline.pipeline.sources import Reader, read_items, stored_source
from comfyline.pipeline.template import is_template
from comfyline.pipeline.written import WrittenStep
from comfyline.plan.check import Looking, validate_pairs
from comfyline.plan.preview import graph_of, preview_jobs
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.uploads import Uploads
from comfyline.yaml.file import LocatedYaml, ReadYaml, read_yaml
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


@dataclass(frozen=True, slots=True)
class LintResult:
    """What was found in one file: mistakes, and what could not be looked at, in words.

    `away` is what kept its jobs from being checked, which is no mistake of the file's.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    away: ComfylineError | None = None


class WithoutStorage:
    """Looks at media that need no object storage, and keeps count of the others."""

    def __init__(self, origins: Looking) -> None:
        self._origins = origins
        self.left_out: set[str] = set()

    async def look(self, origins: Iterable[str], /) -> dict[str, Facts | Trouble]:
        """The facts of those that lie elsewhere than in object storage."""
        asked = list(origins)
        stored = {one for one in asked if one.startswith("s3://")}
        self.left_out |= stored
        return await self._origins.look(one for one in asked if one not in stored)


async def lint_file(
    path: Path,
    models: OfflineModels,
    origins: Looking,
    reader: Reader | None,
    when: datetime,
    uploads: Uploads | None = None,
) -> LintResult:
    """Finds every mistake of a file that can be found without RunComfy.

    With `uploads`, credentials that end before a job may is one of them.

    Without a reader, nothing that lies in object storage is looked at. Raises nothing.
    """
    read = await asyncio.to_thread(read_yaml, path)
    if (located := read.located) is None:
        return LintResult(read.problems)
    found: dict[str, ModelEntry | InputInvalid] = {}
    for model_id in named_models(located):
        try:
            found[model_id] = await models.entry(model_id)
        except InputInvalid as error:
            found[model_id] = error
    static = await asyncio.to_thread(static_mistakes, located, found)
    problems = [*read.problems, *_of_sound_values(static, read)]
    notes: list[str] = []
    away: ComfylineError | None = None
    looking = origins if reader else WithoutStorage(origins)
    try:
        pipeline = await asyncio.to_thread(read_pipeline, located)
        if not read.problems:
            problems += await _of_jobs(pipeline, models, looking, reader, when, notes)
        if uploads and (short := await uploads.lifetime_problem(pipeline.document.limits.timeout)):
            where = located.where(("limits", "timeout"))
            problems.append(Problem(where, short.message, short.hint))
    except InputInvalid as error:
        problems += _of_sound_values(error.problems, read)
    except ComfylineError as error:
        away = error
    if isinstance(looking, WithoutStorage) and looking.left_out:
        notes.append(_not_looked_at(path, sorted(looking.left_out)))
    return LintResult(_each_once(problems), tuple(notes), away)


async def _of_jobs(
    pipeline: Pipeline,
    models: OfflineModels,
    origins: Looking,
    reader: Reader | None,
    when: datetime,
    notes: list[str],
) -> list[Problem]:
    """The mistakes of all jobs that can be foreseen. Raises InputInvalid for those of the items."""
    source = stored_source(pipeline)
    if source and reader is None:
        notes.append(_not_looked_at(pipeline.path, [source]))
    items = await read_items(pipeline, reader)
    foreseen = await preview_jobs(graph_of(pipeline, items, "check", when), models.entry)
    pairs: list[tuple[Job, ModelEntry | ComfylineError]] = []
    for job in foreseen.all_jobs:
        try:
            pairs.append((job, await models.entry(job.model_id)))
        except InputInvalid:
            continue  # Foreseeing has said so.
    validation = await validate_pairs(pairs, origins)
    return [*foreseen.problems, *validation.mistakes]


def _not_looked_at(path: Path, addresses: list[str]) -> str:
    more = f" and {len(addresses) - 1} more" if addresses[1:] else ""
    return f"{path}: not looked at without --profile: {addresses[0]}{more}"


def _of_sound_values(problems: Iterable[Problem], read: ReadYaml) -> list[Problem]:
    """The mistakes but for those of values that are not even what was meant."""
    return [problem for problem in problems if problem.where.split(": ")[0] not in read.flawed]


def _each_once(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """What is found in the file and in its jobs alike is told as it was found first."""
    once: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        once.setdefault((problem.where, problem.message), problem)
    return tuple(once.values())
