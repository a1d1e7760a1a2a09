"""Turn a pipeline file into a plan: its graph and all jobs, before anything is made.

What a step will make is guessed from its model: how many outputs, and of which kind. So a later
step is rendered, named and checked before the first one is paid for.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from comfyline.config.load import variable
from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import PENDING, Item, Job, MediaKind
from comfyline.models.catalogue import Catalogue
from comfyline.models.entry import ModelEntry, kind_made
from comfyline.models.price import expected_outputs
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.graph import Dag, NodeId
from comfyline.pipeline.output_names import colliding_names
from comfyline.pipeline.render import Made, Rendered, RunScope
from comfyline.pipeline.sources import nothing_to_do, read_items
from comfyline.plan.schedule import Schedule
from comfyline.report.format import count
from comfyline.storage.place import Place

if TYPE_CHECKING:
    # With it comes the ledger, and `check` reads none.
    from comfyline.plan.shards import Shard

FindModel = Callable[[str], Awaitable[ModelEntry]]


@dataclass(frozen=True, slots=True)
class Preview:
    """The jobs of each node, and the mistakes of those that cannot be made.

    `away` says why a model could not be asked for, which is no mistake of the pipeline's.
    """

    jobs: Mapping[NodeId, tuple[Job, ...]]
    problems: tuple[Problem, ...]
    away: ComfylineError | None = None

    @property
    def all_jobs(self) -> tuple[Job, ...]:
        """All of them, in the order in which they were rendered."""
        return tuple(job for jobs in self.jobs.values() for job in jobs)


async def preview_jobs(dag: Dag, find_model: FindModel) -> Preview:
    """Render every node, each after those that it needs.

    A node that needs no other has its real jobs; those of all others are placeholders. A mistake
    that many items share is told once.
    """
    jobs: dict[NodeId, tuple[Job, ...]] = {}
    made: dict[NodeId, Sequence[Made]] = {}
    found: dict[Problem, list[str]] = {}
    models = _Models(find_model)
    for step in dag.order:
        # In a thread: ten thousand jobs take a second to render.
        rendered = await asyncio.to_thread(_render_step, dag, step, made)
        for node, one in rendered.items():
            jobs[node] = one.jobs
            for problem in one.problems:
                names = found.setdefault(problem, [])
                if dag.item_name(node) not in names[-1:]:
                    names.append(dag.item_name(node))
        await models.learn(job for one in rendered.values() for job in one.jobs)
        if step in dag.handing_on:
            made |= {node: _guesses(one, step, models) for node, one in rendered.items()}
    every = [job for some in jobs.values() for job in some]
    collisions = await asyncio.to_thread(colliding_names, every, models.outputs_of)
    problems = [_for_items(problem, names) for problem, names in found.items()]
    return Preview(jobs, (*problems, *models.problems, *collisions), models.away)


class _Models:
    """The models of the jobs met so far, and what is wrong with those that there are not."""

    def __init__(self, find: FindModel) -> None:
        self._find = find
        self._known: dict[str, ModelEntry | None] = {}
        self.problems: list[Problem] = []
        self.away: ComfylineError | None = None

    async def learn(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.model_id in self._known:
                continue
            self._known[job.model_id] = None
            try:
                self._known[job.model_id] = await self._find(job.model_id)
            except InputInvalid as error:
                self.problems += (_at(job, problem) for problem in error.problems)
            except ComfylineError as error:
                self.away = error

    def outputs_of(self, job: Job) -> int:
        entry = self._known.get(job.model_id)
        return expected_outputs(entry, job.inputs) if entry else 1

    def kind_of(self, job: Job) -> MediaKind | None:
        entry = self._known.get(job.model_id)
        return kind_made(entry) if entry else None


def _render_step(
    dag: Dag, step: str, made: Mapping[NodeId, Sequence[Made]]
) -> dict[NodeId, Rendered]:
    return {node: dag.jobs(node, made) for node in dag.nodes_of(step)}


def _guesses(rendered: Rendered, step: str, models: _Models) -> list[Made]:
    if rendered.problems:
        # Something will be there once the mistake is mended: nothing more is to be said of it.
        return [Made(f"{PENDING}any:{step}-0", None)]
    return [
        Made(f"{PENDING}{models.kind_of(job) or 'any'}:{step}-{index}", models.kind_of(job))
        for job in rendered.jobs
        for index in range(models.outputs_of(job))
    ]


def _at(job: Job, problem: Problem) -> Problem:
    if job.written is None:
        return replace(problem, where=f"{job.source}: {problem.where}")
    return of_model(problem, job.written.where("model"))


def of_model(problem: Problem, where: str) -> Problem:
    """Place a problem with a model where the model is named, and name a schema's own file in it."""
    is_own = problem.where == "model"
    message = problem.message if is_own else f"{problem.where}: {problem.message}"
    return replace(problem, where=where, message=message)


def _for_items(problem: Problem, names: list[str]) -> Problem:
    if not names[1:]:
        return Problem(problem.where, f"{problem.message} (item {names[0]})", problem.hint)
    message = f"{problem.message} (item {names[0]} and {count(len(names) - 1, 'more item')})"
    return Problem(problem.where, message, problem.hint)


@dataclass(frozen=True, slots=True)
class Planned:
    """A pipeline, its graph and all jobs that can be told before, not yet checked one by one.

    `content` is a hash of what it was made of: whoever shares the run has to come to the same.
    """

    pipeline: Pipeline
    dag: Dag
    preview: Preview
    content: str

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of the preview; those of later steps are placeholders."""
        return self.preview.all_jobs

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying before anything is made."""
        return () if self.dag.items else (nothing_to_do(self.pipeline),)

    def schedule(self) -> Schedule:
        """Schedule the jobs, from the beginning."""
        return Schedule(self.dag, self.preview.jobs)


async def plan_pipeline(
    pipeline: Pipeline,
    limit: int | None,
    run_id: str,
    day: date,
    catalogue: Catalogue,
    bucket: Place | None = None,
    shard: "Shard | None" = None,
) -> Planned:
    """Read a pipeline's items and make its jobs for a day, those of a shard or all.

    Raises `InputInvalid` with every mistake of its templates, its models and its output names. A
    source in object storage is read by `bucket`.
    """
    items = await read_items(pipeline, bucket, limit)
    content = await asyncio.to_thread(_content, pipeline, items)
    if shard:
        items = shard.items(items)
    dag = graph_of(pipeline, items, run_id, day, of_some_items=shard is not None)
    preview = await preview_jobs(dag, catalogue.entry)
    if preview.problems:
        raise InputInvalid(preview.problems)
    if preview.away:
        raise preview.away
    return Planned(pipeline, dag, preview, content)


def _content(pipeline: Pipeline, items: Sequence[Item]) -> str:
    """Hash the document, its variables and its rows; of files, more may come at any moment."""
    variables = {name: variable(name) for name in pipeline.document.env}
    rows = [] if pipeline.document.source.files else [item.fields for item in items]
    told = repr((pipeline.yaml.data, variables, rows))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def graph_of(
    pipeline: Pipeline,
    items: Sequence[Item],
    run_id: str,
    day: date,
    *,
    of_some_items: bool = False,
) -> Dag:
    """Build the graph of a day's run. Raises `InputInvalid` for environment variables not set."""
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
    scope = RunScope(run_id, day.isoformat(), env)
    return Dag(pipeline, items, scope, of_some_items=of_some_items)
