"""A plan in figures: field by field as `--json` prints it, and as a tree of its steps."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from comfyline.errors import Problem
from comfyline.report.format import count, one_line, usd
from comfyline.report.summary import Dollars, Encodable, Record, Told

_COLUMNS = ("jobs", "there", "to make", "waiting", "estimate")
_WIDTHS = (8, 8, 9, 9, 12)
_GUIDE = 4
"""Characters by which Rich indents a level of a tree."""
_LEAST, _MOST = 18, 34
"""Characters for the names of steps."""
_SHORTEST = 4
"""Characters that a step's name keeps however deep it hangs."""
_LABEL, _WHY = 36, 30
"""Characters for a job and for its reason, where they are that short."""
_SHOWN = 12
"""Jobs named one by one unless all are asked for."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as it was written: what it needs, and for what it has jobs.

    `marks` are `for each of …`, `collects all`, `when …`, for people.
    """

    name: str
    needs: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job of a plan. Without a `reason` it is there already.

    `key` is empty where it cannot be known before another step has been made; `is_waiting` says so.
    The price is None where nobody knows it.
    """

    step: str
    model_id: str
    key: str = ""
    item: str = ""
    settings: Mapping[str, Any] | None = None
    part: int | None = None
    label: str = ""
    reason: str = ""
    is_waiting: bool = False
    price_usd: float | None = 0.0


class StepRecord(Record):
    """One step. `to_make` counts all that is not there, `waiting` those of them that need others.

    `estimate_usd` is None when a price is unknown, `estimate_known_usd` leaves those out.
    """

    step: Encodable
    models: tuple[Encodable, ...]
    needs: tuple[str, ...]
    jobs: int
    reused: int
    to_make: int
    waiting: int
    reasons: Mapping[str, int]
    estimate_usd: Dollars | None
    estimate_known_usd: Dollars


class JobRecord(Record):
    """One job that is to be made, and why. `job` is null while its key cannot be known."""

    job: str | None
    item: Encodable
    step: Encodable
    model: Encodable
    settings: dict[str, Any]
    part: int | None
    reason: Encodable
    estimate_usd: Dollars | None


class MistakeRecord(Record):
    """One mistake: where, what is wrong, what to write instead."""

    where: Encodable
    message: Told
    hint: Told = ""


class PlanRecord(Record):
    """A whole plan. `reused` are there already, `waiting` are those `to_make` that need others.

    `estimate_usd` is None when the price of one of `unknown_prices` decides about it; what is known
    of it is `estimate_known_usd`.
    """

    pipeline: Encodable
    items: int = 0
    jobs: int = 0
    reused: int = 0
    to_make: int = 0
    waiting: int = 0
    reasons: Mapping[str, int] = {}
    estimate_usd: Dollars | None = 0.0
    estimate_known_usd: Dollars = 0.0
    unknown_prices: tuple[Encodable, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    make: tuple[JobRecord, ...] = ()
    notes: tuple[Encodable, ...] = ()
    errors: tuple[MistakeRecord, ...] = ()

    def to_json(self) -> str:
        """Write the object on one line."""
        return self.model_dump_json()


def plan_record(
    pipeline: str,
    items: int,
    steps: Sequence[PlannedStep],
    jobs: Sequence[PlannedJob],
    mistakes: Iterable[Problem],
    notes: Iterable[str],
) -> PlanRecord:
    """Count a plan, step by step and as a whole."""
    of_step: dict[str, list[PlannedJob]] = {step.name: [] for step in steps}
    for job in jobs:
        of_step[job.step].append(job)
    missing = [job for job in jobs if job.reason]
    unknown = dict.fromkeys(job.model_id for job in missing if job.price_usd is None)
    known = sum(job.price_usd or 0.0 for job in missing)
    return PlanRecord(
        pipeline=pipeline,
        items=items,
        jobs=len(jobs),
        reused=len(jobs) - len(missing),
        to_make=len(missing),
        waiting=sum(job.is_waiting for job in missing),
        reasons=_counted(missing),
        estimate_usd=None if unknown else known,
        estimate_known_usd=known,
        unknown_prices=tuple(unknown),
        steps=tuple(_step_record(step, of_step[step.name]) for step in steps),
        make=tuple(map(_job_record, missing)),
        notes=tuple(notes),
        errors=mistake_records(mistakes),
    )


def mistake_records(problems: Iterable[Problem]) -> tuple[MistakeRecord, ...]:
    """Write mistakes as programs read them."""
    return tuple(
        MistakeRecord(where=one.where, message=one.message, hint=one.hint) for one in problems
    )


def _step_record(step: PlannedStep, jobs: Sequence[PlannedJob]) -> StepRecord:
    missing = [job for job in jobs if job.reason]
    known = sum(job.price_usd or 0.0 for job in missing)
    return StepRecord(
        step=step.name,
        models=tuple(dict.fromkeys(job.model_id for job in jobs)),
        needs=step.needs,
        jobs=len(jobs),
        reused=len(jobs) - len(missing),
        to_make=len(missing),
        waiting=sum(job.is_waiting for job in missing),
        reasons=_counted(missing),
        estimate_usd=None if any(job.price_usd is None for job in missing) else known,
        estimate_known_usd=known,
    )


def _job_record(job: PlannedJob) -> JobRecord:
    return JobRecord(
        job=job.key or None,
        item=job.item,
        step=job.step,
        model=job.model_id,
        settings=dict(job.settings or {}),
        part=job.part,
        reason=job.reason,
        estimate_usd=job.price_usd,
    )


def _counted(jobs: Iterable[PlannedJob]) -> dict[str, int]:
    return dict(Counter(job.reason for job in jobs).most_common())


def plan_tree(plan: PlanRecord, steps: Sequence[PlannedStep], head: str) -> RenderableType:
    """Draw the steps, each below the last of those that it needs, and the sum of all.

    `head` says in a few words what the pipeline goes over: `5 items × 2 combinations`.
    """
    written = {step.name: step for step in steps}
    depths = _depths(steps)
    wide = max((len(name) + _GUIDE * depth for name, depth in depths.items()), default=0) + 1
    width = min(max(wide, len(plan.pipeline), _LEAST), _MOST)
    tree = Tree(_line(plan.pipeline, _COLUMNS, width, "bold"), guide_style="dim")
    branches: dict[str, Tree] = {}
    for record in plan.steps:
        step = written[record.step]
        above = branches[step.needs[-1]] if step.needs else tree
        label = Text("\n").join(_told(step, record, width - _GUIDE * depths[step.name]))
        branches[step.name] = above.add(label)
    whole = _figures(
        plan.jobs,
        plan.reused,
        plan.to_make,
        plan.waiting,
        _cost(plan.estimate_usd, plan.estimate_known_usd),
    )
    return Group(Text(head, style="dim"), tree, _line("total", whole, width, "bold"))


def job_lines(jobs: Sequence[PlannedJob], *, everything: bool) -> Iterator[Text]:
    """List the jobs to be made with their reasons and prices, unless those are too many."""
    missing = [job for job in jobs if job.reason]
    shown = missing if everything else missing[:_SHOWN]
    labels = [one_line(job.label) for job in shown]
    label_width = min(max(map(len, labels), default=0), _LABEL)
    why_width = min(max((len(job.reason) for job in shown), default=0), _WHY)
    for job, label in zip(shown, labels, strict=True):
        line = Text(f"  {label.ljust(label_width)}  ").append(job.reason.ljust(why_width), "cyan")
        yield line.append(f"  {_cost(job.price_usd)}")
    if more := len(missing) - len(shown):
        yield Text(f"  and {count(more, 'more job')}; --all names every one", style="dim")


def _depths(steps: Sequence[PlannedStep]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for step in steps:
        depths[step.name] = depths[step.needs[-1]] + 1 if step.needs else 1
    return depths


def _told(step: PlannedStep, record: StepRecord, width: int) -> Iterator[Text]:
    """Return a step's line of figures, and below it what it calls, needs and why."""
    cost = _cost(record.estimate_usd, record.estimate_known_usd)
    figures = _figures(record.jobs, record.reused, record.to_make, record.waiting, cost)
    yield _line(step.name, figures, width, "")
    for model in record.models:
        yield Text(model, style="dim")
    # Where it hangs in the tree says which it needs, when that is only one.
    marks = [f"needs {' and '.join(f'`{one}`' for one in step.needs)}"] if step.needs[1:] else []
    if marks := [*marks, *step.marks]:
        yield Text(one_line(" · ".join(marks)), style="dim")
    if record.reasons:
        why = ", ".join(f"{number:,} {reason}" for reason, number in record.reasons.items())
        yield Text(why, style="cyan")


def _figures(jobs: int, there: int, to_make: int, waiting: int, cost: str) -> tuple[str, ...]:
    return (*(f"{number:,}" if number else "–" for number in (jobs, there, to_make, waiting)), cost)


def _line(name: str, figures: Sequence[str], width: int, style: str) -> Text:
    cells = "".join(cell.rjust(wide) for cell, wide in zip(figures, _WIDTHS, strict=True))
    width = max(width, _SHORTEST)
    shown = name if len(name) < width else name[: width - 2] + "…"
    return Text(shown.ljust(width), style="bold").append(cells, style)


def _cost(known: float | None, at_least: float = 0.0) -> str:
    if known is not None:
        return usd(known)
    return f"> {usd(at_least)}" if at_least else "unknown"
