"""plan: what would happen, before anything is spent or written."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from comfyline.cli import options
from comfyline.cli.console import print_error, print_line, print_result, results
from comfyline.config.load import look
from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.pipeline.document import RunLimits, load_pipeline
from comfyline.plan.explain import explain_jobs, moving_aside, namesakes, planned_steps
from comfyline.plan.preview import Planned, plan_pipeline
from comfyline.plan.reuse import run_preflight
from comfyline.plan.shards import how_many
from comfyline.report.format import count, usd
from comfyline.report.plan import (
    DaysPlanRecord,
    MistakeRecord,
    PlannedJob,
    PlanRecord,
    days_table,
    jobs_of_day,
    jobs_table,
    plan_of_days,
    plan_record,
    steps_table,
)
from comfyline.run import CostLimits, Run
from comfyline.services import Services, day_of, now, open_services

Everything = Annotated[
    bool,
    Parameter(name=["--all", "-a"], help="Name every job that would be made, with its reason."),
]


async def plan(
    pipeline: options.PipelineFile,
    /,
    *,
    profile: options.Profile = "sandbox",
    date: options.Date = None,
    overrides: options.Overrides = (),
    limit: options.Limit = None,
    refresh: options.Refresh = False,
    max_cost: options.MaxCost = None,
    unchecked: options.Unchecked = False,
    everything: Everything = False,
    json_output: options.Json = False,
) -> int:
    """Show what `run` would make and why, what is there already and the cost; spends nothing.

    Example: comfyline plan configs/pipelines/office-scenes.yaml --profile production
    """
    days = options.days_of(date)
    records: list[PlanRecord] = []
    jobs: list[list[PlannedJob]] = []
    paid_for: set[str | None] = set()
    try:
        async with open_services(look(profile), reading=True, unchecked=unchecked) as services:
            loaded, bucket = load_pipeline(pipeline, overrides), services.places.bucket
            for day in days or (day_of(now()),):
                planned = await plan_pipeline(
                    loaded, limit, "plan", day, services.catalogue, bucket
                )
                record, found = await _explained(planned, services, refresh=refresh)
                records.append(record)
                jobs.append(jobs_of_day(day, found, paid_for) if days[1:] else [*found])
                if not refresh:
                    paid_for.update(one.job for one in found if one.job)
    except ComfylineError as error:
        print_error(error)
        if json_output:
            print_result(_nothing(pipeline.stem, error).to_json())
        return error.exit_code
    if days[1:]:
        record = plan_of_days(days, records, planned_steps(planned), jobs)
    for note in (*planned.notes, *record.notes):
        print_line(note)
    problems = [Problem(one.where, one.message, one.hint) for one in record.errors]
    if problems:
        print_error(InputInvalid(problems))
    if json_output:
        print_result(record.to_json())
    else:
        _show(planned, record, [one for some in jobs for one in some], everything=everything)
        for warning in _warnings(record, loaded.document.limits, max_cost):
            results.print(Text(warning, style="yellow"))
    return InputInvalid.exit_code if problems else 0


async def _explained(
    planned: Planned, services: Services, *, refresh: bool
) -> tuple[PlanRecord, Sequence[PlannedJob]]:
    document = planned.pipeline.document
    run = Run(
        id="plan",
        pipeline=document.name,
        in_flight=document.limits.in_flight,
        timeout=document.limits.timeout,
        costs=CostLimits(),
        refresh=refresh,
        new_only=document.source.new_only,
    )
    preflight = await run_preflight(planned.schedule(), run, services)
    steps = planned_steps(planned)
    needs = {step.name: step.needs for step in steps}
    jobs = await explain_jobs(preflight, needs, run, services)
    notes = (
        *preflight.notes,
        *await moving_aside(preflight, run, services),
        *await namesakes(planned.jobs, services),
    )
    record = plan_record(
        document.name, len(planned.dag.items), steps, jobs, preflight.mistakes, notes
    )
    of = how_many(record.to_make, planned.dag.items, document.limits.shard, None)
    return record.model_copy(update={"shards": of}), jobs


def _show(
    planned: Planned, record: PlanRecord, jobs: Sequence[PlannedJob], *, everything: bool
) -> None:
    if not record.jobs:
        results.print("nothing to do")
        return
    combinations = len(planned.dag.combinations)
    head = count(record.items, "item")
    if isinstance(record, DaysPlanRecord):
        head = f"{count(len(record.days), 'day')} × {head}"
    if combinations > 1:
        head += f" × {count(combinations, 'combination')}"
    if record.shards > 1:
        head += f", {record.to_make:,} jobs to make in {record.shards} shards"
    results.print(Text(head, "dim"))
    results.print(steps_table(record))
    if isinstance(record, DaysPlanRecord):
        results.print(Text(), days_table(record))
    if record.to_make:
        results.print(Text("\nto make", "bold"))
        results.print(jobs_table(jobs, everything=everything))
    else:
        results.print("nothing to do: everything is there already")


def _warnings(record: PlanRecord, limits: RunLimits, max_cost: float | None) -> list[str]:
    """Warn of what a run would stumble over: unknown prices, limits that do not suffice."""
    told = []
    if record.unknown_prices:
        named = ", ".join(record.unknown_prices)
        told.append(f"The price of {named} is unknown and comes on top.")
    caps = (
        ("--max-cost", max_cost, "a run stops there"),
        ("limits.max_cost_usd", limits.max_cost_usd, "a run stops there"),
        ("limits.max_cost_usd_per_day", limits.max_cost_usd_per_day, "it takes days"),
    )
    cost = record.estimate_known_usd
    told += (
        f"The estimate of {usd(cost)} is over {name}, {usd(cap)}: {then}."
        for name, cap, then in caps
        if cap is not None and cost > cap
    )
    return told


def _nothing(name: str, error: ComfylineError) -> PlanRecord:
    """Build the JSON of a plan that could not be made."""
    problems = error.problems if isinstance(error, InputInvalid) else ()
    said = problems or [Problem("", error.message, error.hint)]
    return PlanRecord(
        pipeline=name, estimate_usd=None, errors=tuple(map(MistakeRecord.model_validate, said))
    )
