"""A plan as a tree of its steps with figures beside them, for people."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from comfyline.report.format import count, one_line, usd
from comfyline.report.plan import PlannedJob, PlannedStep, PlanRecord, StepRecord

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
SHOWN = 12
"""Jobs named one by one unless all are asked for."""


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
    shown = missing if everything else missing[:SHOWN]
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
