"""From a pipeline file to its jobs, with every mistake that can be found before the first cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from comfyline.catalogue import Catalogue
from comfyline.errors import InputInvalid
from comfyline.job import Job
from comfyline.models.entry import ModelEntry
from comfyline.models.price import expected_outputs
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.naming import colliding_names
from comfyline.pipeline.plan import RunScope, plan_jobs
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

    Raises `InputInvalid` with every mistake of the file, its templates and its output names.
    """
    pipeline = load_pipeline(path, overrides)
    items = read_items(pipeline, limit)
    plan = plan_jobs(pipeline, items, RunScope(id=run_id, date=f"{when.astimezone():%Y-%m-%d}"))
    entries: dict[str, ModelEntry] = {}
    for job in plan.jobs:
        if job.model_id not in entries:
            entries[job.model_id] = await catalogue.entry(job.model_id)
    problems = [
        *plan.problems,
        *colliding_names(
            plan.jobs, lambda job: expected_outputs(entries[job.model_id], job.inputs)
        ),
    ]
    if problems:
        raise InputInvalid(problems)
    return Planned(pipeline, plan.jobs)
