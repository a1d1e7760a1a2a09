"""A plan in figures: field by field as `--json` prints it, and as a table of its steps."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import ConfigDict, Field
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from comfyline.errors import Problem
from comfyline.report.format import count, one_line, usd
from comfyline.report.summary import Dollars, Encodable, Message, Record

_NAMES = 34
"""Characters for the names of steps and what is said about them; longer text is wrapped."""
_FIGURES = ("jobs", "there", "to make", "waiting", "estimate")
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
    marks: tuple[str, ...] = Field(exclude=True)


class PlannedJob(Record):
    """One job of a plan. Without a `reason` it is there already.

    `job` is null where its key cannot be known before another step has been made; `is_waiting`
    says so. The price is None where nobody knows it.
    """

    job: str | None = None
    item: Encodable = ""
    step: Encodable
    model: Encodable
    settings: Mapping[str, Any] = {}
    part: int | None = None
    reason: Encodable = ""
    estimate_usd: Dollars | None = 0.0
    label: str = Field("", exclude=True)
    is_waiting: bool = Field(default=False, exclude=True)


class MistakeRecord(Record):
    """One mistake: where, what is wrong, what to write instead."""

    model_config = ConfigDict(from_attributes=True)

    where: Encodable
    message: Message
    hint: Message = ""


class PlanRecord(Record):
    """A whole plan. `reused` are there already, `waiting` are those `to_make` that need others.

    `estimate_usd` is None when the price of one of `unknown_prices` decides about it; what is known
    of it is `estimate_known_usd`. A run would be shared by `shards` flow runs, 1 for itself alone.
    """

    pipeline: Encodable
    items: int = 0
    jobs: int = 0
    reused: int = 0
    to_make: int = 0
    waiting: int = 0
    shards: int = 1
    reasons: Mapping[str, int] = {}
    estimate_usd: Dollars | None = 0.0
    estimate_known_usd: Dollars = 0.0
    unknown_prices: tuple[Encodable, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    make: tuple[PlannedJob, ...] = ()
    notes: tuple[Encodable, ...] = ()
    errors: tuple[MistakeRecord, ...] = ()


class PlannedDay(Record):
    """What one day has of the plan of several."""

    date: str
    jobs: int
    reused: int
    to_make: int
    waiting: int
    estimate_usd: Dollars | None
    estimate_known_usd: Dollars
    reasons: Mapping[str, int]


class DaysPlanRecord(PlanRecord):
    """The plan of several days together, and each of them beside."""

    days: tuple[PlannedDay, ...]


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
    unknown = dict.fromkeys(job.model for job in missing if job.estimate_usd is None)
    return PlanRecord(
        pipeline=pipeline,
        items=items,
        **_figures(jobs),
        unknown_prices=tuple(unknown),
        steps=tuple(
            StepRecord(
                step=step.name,
                models=tuple(dict.fromkeys(job.model for job in of_step[step.name])),
                needs=step.needs,
                marks=step.marks,
                **_figures(of_step[step.name]),
            )
            for step in steps
        ),
        make=tuple(missing),
        notes=tuple(notes),
        errors=tuple(map(MistakeRecord.model_validate, mistakes)),
    )


def plan_of_days(
    days: Sequence[date],
    plans: Sequence[PlanRecord],
    steps: Sequence[PlannedStep],
    jobs: Sequence[Sequence[PlannedJob]],
) -> DaysPlanRecord:
    """Add up the plans of several days; `jobs` are all of each day."""
    mistakes = {one.model_dump_json(): one for plan in plans for one in plan.errors}
    together = plan_record(
        plans[0].pipeline,
        plans[0].items,
        steps,
        [job for some in jobs for job in some],
        [Problem(one.where, one.message, one.hint) for one in mistakes.values()],
        dict.fromkeys(note for plan in plans for note in plan.notes),
    )
    figures = zip(days, map(_figures, jobs), strict=True)
    each = tuple(PlannedDay(date=day.isoformat(), **of_day) for day, of_day in figures)
    return DaysPlanRecord(**dict(together), days=each)


def jobs_of_day(
    day: date, jobs: Iterable[PlannedJob], made: Container[str | None]
) -> list[PlannedJob]:
    """Name the day of each job; what an earlier day will have `made` is there by then."""
    there = {"reason": "", "estimate_usd": 0.0}
    return [
        one.model_copy(update={"label": f"{day} {one.label}", **(there if one.job in made else {})})
        for one in jobs
    ]


def days_table(plan: DaysPlanRecord) -> Table:
    """List the days with their figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("day")
    for name in _FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    for day in plan.days:
        table.add_row(day.date, *_cells(day))
    return table


def _figures(jobs: Sequence[PlannedJob]) -> dict[str, Any]:
    missing = [job for job in jobs if job.reason]
    known = sum(job.estimate_usd or 0.0 for job in missing)
    return {
        "jobs": len(jobs),
        "reused": len(jobs) - len(missing),
        "to_make": len(missing),
        "waiting": sum(job.is_waiting for job in missing),
        "reasons": dict(Counter(job.reason for job in missing).most_common()),
        "estimate_usd": None if any(job.estimate_usd is None for job in missing) else known,
        "estimate_known_usd": known,
    }


def steps_table(plan: PlanRecord) -> Table:
    """Draw the steps with their figures, each indented below those that it needs, and the sum."""
    table = Table(box=None, pad_edge=False, show_footer=True, header_style="bold")
    table.footer_style = "bold"
    table.add_column(Text(plan.pipeline), "total", max_width=_NAMES, overflow="fold")
    for name, whole in zip(_FIGURES, _cells(plan), strict=True):
        table.add_column(name, whole, justify="right", no_wrap=True)
    depths: dict[str, int] = {}
    for step in plan.steps:
        depths[step.step] = depth = depths[step.needs[-1]] + 1 if step.needs else 1
        table.add_row(Padding(_about(step), (0, 0, 0, 2 * depth)), *_cells(step))
    return table


def jobs_table(jobs: Sequence[PlannedJob], *, everything: bool) -> Table:
    """List the jobs to be made with their reasons and prices, unless those are too many."""
    missing = [job for job in jobs if job.reason]
    shown = missing if everything else missing[:_SHOWN]
    table = Table.grid(padding=(0, 2, 0, 0))
    for job in shown:
        label, reason = Text(f"  {one_line(job.label)}"), Text(job.reason, "cyan")
        table.add_row(label, reason, _cost(job.estimate_usd))
    if more := len(missing) - len(shown):
        table.add_row(Text(f"  and {count(more, 'more job')}; --all names every one", "dim"))
    return table


def _about(step: StepRecord) -> Text:
    """Write a step's name, and below it what it calls, what it needs and why it is to be made."""
    lines = [Text(step.step, "bold"), *(Text(model, "dim") for model in step.models)]
    # Its indentation shows what it needs, when that is only one.
    marks = [f"needs {' and '.join(f'`{one}`' for one in step.needs)}"] if step.needs[1:] else []
    if marks := [*marks, *step.marks]:
        lines.append(Text(one_line(" · ".join(marks)), "dim"))
    if step.reasons:
        why = ", ".join(f"{number:,} {reason}" for reason, number in step.reasons.items())
        lines.append(Text(why, "cyan"))
    return Text("\n").join(lines)


def _cells(record: StepRecord | PlanRecord | PlannedDay) -> tuple[str, ...]:
    numbers = (record.jobs, record.reused, record.to_make, record.waiting)
    shown = (f"{number:,}" if number else "–" for number in numbers)
    return (*shown, _cost(record.estimate_usd, record.estimate_known_usd))


def _cost(known: float | None, at_least: float = 0.0) -> str:
    if known is not None:
        return usd(known)
    return f"> {usd(at_least)}" if at_least else "unknown"
