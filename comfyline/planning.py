"""From a pipeline file to its jobs, with every mistake that can be found before the first cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from comfyline.catalogue import Catalogue
from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import Job
from comfyline.models.entry import ModelEntry
from comfyline.models.price import expected_outputs
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.naming import colliding_names
from comfyline.pipeline.plan import Plan, RunScope, plan_jobs
from comfyline.pipeline.sources import read_items


@dataclass(frozen=True, slots=True)
class Planned:
    """A pipeline and its jobs, rendered and told apart, not yet checked one by one."""

    pipeline: Pipeline
    jobs: tuple[Job, ...]


async def plan_pipeline(
    path: Path,
    overrides: Sequence[str],
    limit: int | None,
    run_id: str,
    when: datetime,
    catalogue: Catalogue,
) -> Planned:
    """Reads a pipeline and makes its jobs.

    Raises `InputInvalid` with every mistake of the file, its templates, its models and its output
    names; a pipeline that cannot be read at all tells of the file's own mistakes only.
    """
    scope = RunScope(id=run_id, date=f"{when.astimezone():%Y-%m-%d}")
    # In a thread: a file system may be slow, and ten thousand jobs take a second to render.
    pipeline, plan = await asyncio.to_thread(_rendered, path, overrides, limit, scope)
    firsts = {job.model_id: job for job in reversed(plan.jobs)}
    entries: dict[str, ModelEntry] = {}
    problems = list(plan.problems)
    away: ComfylineError | None = None
    for model_id, job in firsts.items():
        try:
            entries[model_id] = await catalogue.entry(model_id)
        except InputInvalid as error:
            problems += (_at(job, problem) for problem in error.problems)
        except ComfylineError as error:
            away = error

    def expected(job: Job) -> int:
        entry = entries.get(job.model_id)
        return expected_outputs(entry, job.inputs) if entry else 1

    problems += await asyncio.to_thread(colliding_names, plan.jobs, expected)
    if problems:
        raise InputInvalid(problems)
    if away:
        raise away
    return Planned(pipeline, plan.jobs)


def _rendered(
    path: Path, overrides: Sequence[str], limit: int | None, scope: RunScope
) -> tuple[Pipeline, Plan]:
    pipeline = load_pipeline(path, overrides)
    return pipeline, plan_jobs(pipeline, read_items(pipeline, limit), scope)


def _at(job: Job, problem: Problem) -> Problem:
    """A problem with a model, at the step that names the model."""
    return replace(problem, where=f"{job.source}: {problem.where}") if job.source else problem
