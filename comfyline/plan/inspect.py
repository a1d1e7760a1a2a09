"""Everything that is wrong with a pipeline file: its own mistakes and those of its jobs at once."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import Job
from comfyline.models.entry import ModelEntry
from comfyline.models.library import OfflineModels
from comfyline.pipeline.document import Pipeline, read_pipeline
from comfyline.pipeline.sources import Reader, read_items, stored_source
from comfyline.plan.lint import named_models, static_mistakes
from comfyline.plan.plan import graph_of
from comfyline.plan.preview import foresee
from comfyline.plan.validate import Looking, judge_with
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.uploads import Uploads
from comfyline.yaml.file import ReadYaml, read_yaml


@dataclass(frozen=True, slots=True)
class Inspection:
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


async def inspect(
    path: Path,
    models: OfflineModels,
    origins: Looking,
    reader: Reader | None,
    when: datetime,
    uploads: Uploads | None = None,
) -> Inspection:
    """Finds every mistake of a file that can be found without RunComfy.

    With `uploads`, credentials that end before a job may is one of them.

    Without a reader, nothing that lies in object storage is looked at. Raises nothing.
    """
    read = await asyncio.to_thread(read_yaml, path)
    if (located := read.located) is None:
        return Inspection(read.problems)
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
    return Inspection(_each_once(problems), tuple(notes), away)


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
    foreseen = await foresee(graph_of(pipeline, items, "check", when), models.entry)
    pairs: list[tuple[Job, ModelEntry | ComfylineError]] = []
    for job in foreseen.all_jobs:
        try:
            pairs.append((job, await models.entry(job.model_id)))
        except InputInvalid:
            continue  # Foreseeing has said so.
    verdicts = await judge_with(pairs, origins)
    return [*foreseen.problems, *verdicts.mistakes]


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
