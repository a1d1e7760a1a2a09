"""From a pipeline file to its jobs, with every mistake that can be found before the first cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from comfyline.config.environment import variable
from comfyline.errors import InputInvalid, Problem
from comfyline.job import Item, Job
from comfyline.models.catalogue import Catalogue
from comfyline.pipeline.dag import Dag
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.rendering import RunScope
from comfyline.pipeline.sources import Reader, nothing_to_do, read_items
from comfyline.plan.preview import Foreseen, foresee
from comfyline.plan.schedule import Unfolding


@dataclass(frozen=True, slots=True)
class Planned:
    """A pipeline, its graph and all jobs that can be foreseen, not yet checked one by one."""

    pipeline: Pipeline
    dag: Dag
    foreseen: Foreseen

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that can be foreseen; those of later steps are placeholders."""
        return self.foreseen.all_jobs

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying before anything is made."""
        return () if self.dag.items else (nothing_to_do(self.pipeline),)

    def unfolding(self) -> Unfolding:
        """The jobs as they become known, from the beginning."""
        return Unfolding(self.dag, self.foreseen.jobs)


async def plan_pipeline(
    path: Path,
    overrides: Sequence[str],
    limit: int | None,
    run_id: str,
    when: datetime,
    catalogue: Catalogue,
    reader: Reader | None = None,
) -> Planned:
    """Reads a pipeline and makes its jobs.

    Raises `InputInvalid` with every mistake of the file, its templates, its models and its output
    names; a pipeline that cannot be read at all tells of the file's own mistakes only. A source in
    object storage is read by `reader`.
    """
    # In a thread: a file system may be slow.
    pipeline = await asyncio.to_thread(load_pipeline, path, overrides)
    items = await read_items(pipeline, reader, limit)
    dag = graph_of(pipeline, items, run_id, when)
    foreseen = await foresee(dag, catalogue.entry)
    if foreseen.problems:
        raise InputInvalid(foreseen.problems)
    if foreseen.away:
        raise foreseen.away
    return Planned(pipeline, dag, foreseen)


def graph_of(pipeline: Pipeline, items: Sequence[Item], run_id: str, when: datetime) -> Dag:
    """The graph of a run at a time. Raises `InputInvalid` for environment variables not set."""
    values = {name: variable(name) for name in pipeline.document.env}
    missing = [
        Problem(
            pipeline.yaml.where(("env", index)),
            f"the environment variable {name} is not set",
            f"export {name}=…",
        )
        for index, name in enumerate(pipeline.document.env)
        if values[name] is None
    ]
    if missing:
        raise InputInvalid(missing)
    env = {name: value for name, value in values.items() if value is not None}
    return Dag(pipeline, items, RunScope(run_id, f"{when.astimezone():%Y-%m-%d}", env))
