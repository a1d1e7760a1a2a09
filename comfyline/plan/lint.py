"""Find what is wrong with a pipeline file: its own mistakes and those of its jobs at once.

A file with a misspelt key has no jobs that could be checked. What is written in its steps can be:
every value that is no template is held against its model's schema.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.models.catalogue import Catalogue
from comfyline.models.check import find_mistakes
from comfyline.models.entry import ModelEntry
from comfyline.pipeline.document import read_pipeline
from comfyline.pipeline.render import WrittenStep
from comfyline.pipeline.sources import read_items, stored_source
from comfyline.pipeline.templates import is_template
from comfyline.plan.check import Found, LookUp, validate_pairs
from comfyline.plan.preview import graph_of, of_model, preview_jobs
from comfyline.storage.place import Place
from comfyline.storage.uploads import Uploads
from comfyline.yaml.file import LocatedYaml, ReadYaml, field_path, read_yaml

_S3 = "s3://"


def named_models(located: LocatedYaml) -> tuple[str, ...]:
    """List the models that the steps name outright, each once."""
    return tuple(dict.fromkeys(model for _, model, _ in _steps(located)))


def static_mistakes(
    located: LocatedYaml, models: Mapping[str, ModelEntry | InputInvalid]
) -> list[Problem]:
    """Find what is a mistake in the steps' inputs whatever the templates turn out to be.

    `models` holds each of `named_models`, or why there is none.
    """
    problems: list[Problem] = []
    for name, model_id, inputs in _steps(located):
        written, found = WrittenStep(located, name), models[model_id]
        if isinstance(found, InputInvalid):
            where = written.where("model")
            problems += (of_model(problem, where) for problem in found.problems)
            continue
        for mistake in find_mistakes(found, inputs, is_template):
            where = written.where(field_path(mistake.pointer))
            problems.append(Problem(where, mistake.message, mistake.hint))
    return problems


def _steps(located: LocatedYaml) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, model and input of the steps that tell them outright."""
    steps = located.data.get("steps")
    for name, step in steps.items() if isinstance(steps, dict) else ():
        model, inputs = (
            (step.get("model"), step.get("input")) if isinstance(step, dict) else (None, None)
        )
        is_named = isinstance(model, str) and model.strip() and not is_template(model)
        if is_named and isinstance(inputs, dict):
            yield name, str(model), inputs


@dataclass(frozen=True, slots=True)
class LintResult:
    """What was found in one file: mistakes, and what could not be looked at, in words.

    `away` is what kept its jobs from being checked, which is no mistake of the file's.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    away: ComfylineError | None = None


async def lint_file(
    path: Path,
    models: Catalogue,
    look_up: LookUp,
    bucket: Place | None,
    day: date,
    uploads: Uploads | None = None,
) -> LintResult:
    """Find every mistake of a file that can be found without RunComfy; raises nothing.

    With `uploads`, credentials that end before a job may is one of them. Without a bucket, nothing
    that lies in object storage is looked at.
    """
    read = await asyncio.to_thread(read_yaml, path)
    if (located := read.located) is None:
        return LintResult(read.problems)
    found = {model_id: await _entry(models, model_id) for model_id in named_models(located)}
    static = await asyncio.to_thread(static_mistakes, located, found)
    problems = [*read.problems, *_of_sound_values(static, read)]
    left_out: dict[str, None] = {}
    away: ComfylineError | None = None

    async def look_up_local(origins: Iterable[str]) -> Found:
        asked = list(origins)
        left_out.update(dict.fromkeys(sorted(one for one in asked if one.startswith(_S3))))
        return await look_up(one for one in asked if not one.startswith(_S3))

    try:
        pipeline = await asyncio.to_thread(read_pipeline, located)
        if not read.problems:
            if bucket is None and (source := stored_source(pipeline)):
                left_out[source] = None
            items = await read_items(pipeline, bucket)
            preview = await preview_jobs(graph_of(pipeline, items, "check", day), models.entry)
            pairs = [(job, await _entry(models, job.model_id)) for job in preview.all_jobs]
            # The preview names the models that there are not.
            known = [pair for pair in pairs if isinstance(pair[1], ModelEntry)]
            validation = await validate_pairs(known, look_up if bucket else look_up_local)
            problems += [*preview.problems, *validation.mistakes]
        if uploads and (short := await uploads.lifetime_problem(pipeline.document.limits.timeout)):
            where = located.where(("limits", "timeout"))
            problems.append(Problem(where, short.message, short.hint))
    except InputInvalid as error:
        problems += _of_sound_values(error.problems, read)
    except ComfylineError as error:
        away = error
    # What is found in the file and in its jobs alike is told as it was found first.
    once = {(one.where, one.message): one for one in reversed(problems)}
    notes = (_not_looked_at(path, list(left_out)),) if left_out else ()
    return LintResult(tuple(reversed(once.values())), notes, away)


async def _entry(models: Catalogue, model_id: str) -> ModelEntry | InputInvalid:
    try:
        return await models.entry(model_id)
    except InputInvalid as error:
        return error


def _not_looked_at(path: Path, addresses: list[str]) -> str:
    more = f" and {len(addresses) - 1} more" if addresses[1:] else ""
    return f"{path}: not checked without --profile: {addresses[0]}{more}"


def _of_sound_values(problems: Iterable[Problem], read: ReadYaml) -> list[Problem]:
    """Leave out the mistakes of values that are not even what was meant."""
    return [problem for problem in problems if problem.where.split(": ")[0] not in read.flawed]
