"""The flow of a YAML pipeline: plan, make what is not there, report."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from comfyline.errors import ComfylineError
from comfyline.plan.explain import namesakes
from comfyline.plan.preview import Planned, plan_pipeline
from comfyline.plan.shards import Shard
from comfyline.progress import Note, tell
from comfyline.report.summary import RunSummary
from comfyline.run import CostLimits, Run
from comfyline.services import Services, now
from flows.finish import finish
from flows.parameters import (
    AllowUnknownCost,
    Content,
    Date,
    Limit,
    MaxCost,
    OfRun,
    OneShard,
    Overrides,
    PipelinePath,
    Profile,
    Refresh,
    Shards,
    Unchecked,
    Verify,
    read_pipeline,
)
from flows.schedule import execute
from flows.session import run_date, run_id, with_services
from flows.shards import finish_shard, part_of_run, run_in_shards


def _name() -> str:
    """Name a run after its pipeline and its time."""
    path = Path(str(flow_run.parameters.get("path", "pipeline")))
    day = flow_run.parameters.get("date")
    shard = flow_run.parameters.get("shard")
    told = f"{f' for {day}' if day else ''} {now():%Y-%m-%d %H:%M:%S}"
    return f"{path.stem}{told}{f' shard {shard}' if shard else ''}"


@flow(name="pipeline", flow_run_name=_name, retries=0)
async def pipeline(
    *,
    path: PipelinePath,
    profile: Profile,
    date: Date = None,
    overrides: Overrides = None,
    limit: Limit = None,
    refresh: Refresh = False,
    max_cost_usd: MaxCost = None,
    allow_unknown_cost: AllowUnknownCost = False,
    verify: Verify = False,
    unchecked: Unchecked = False,
    shards: Shards = None,
    shard: OneShard = None,
    of_run: OfRun = None,
    content: Content = None,
) -> State[RunSummary] | State[ComfylineError]:
    """Run a pipeline file to its end; make only what is not there yet.

    Args:
        path: The pipeline's YAML file, relative to the project's root.
        profile: Where it runs: the name of a file in configs/profiles/, or a path to one.
        date: The day for which it runs, `run.date` in the YAML; what is there is not made again.
        overrides: Values that replace those of the YAML, such as limits.in_flight=4.
        limit: At most so many items of the source.
        refresh: Make everything again although it is there, and pay for it again.
        max_cost_usd: Submit no job that would bring this run's cost above so many dollars.
        allow_unknown_cost: Submit also what has no known price although there is a cost limit.
        verify: Count an output as there only when every byte of it is what was stored.
        unchecked: Submit also to a model whose schema is nowhere to be had: nothing of its inputs
            is checked, its price is unknown, and only @file and s3:// values are media.
        shards: Share the run among workers in so many parts; 1 for this process alone. By default
            what the pipeline's limits say.
        shard: Set by the run itself: which part this is, such as 3/8.
        of_run: Set by the run itself: the run that this is a part of.
        content: Set by the run itself: what the pipeline has to be for a part to be made of it.
    """
    given = {
        "path": path,
        "profile": profile,
        "overrides": overrides,
        "limit": limit,
        "refresh": refresh,
        "max_cost_usd": max_cost_usd,
        "allow_unknown_cost": allow_unknown_cost,
        "verify": verify,
        "unchecked": unchecked,
    }
    started, began = now(), time.monotonic()

    async def work(services: Services) -> State[RunSummary]:
        part, day = part_of_run(shard, of_run), date or run_date()
        # In a thread: a file system may be slow.
        loaded = await asyncio.to_thread(read_pipeline, path, overrides or [])

        async def plan(part: Shard | None) -> tuple[Planned, Run]:
            planned = await plan_pipeline(
                loaded,
                limit,
                run_id(),
                day,
                services.catalogue,
                services.places.bucket,
                part,
            )
            limits = planned.pipeline.document.limits
            caps = [cap for cap in (max_cost_usd, limits.max_cost_usd) if cap is not None]
            run = Run(
                id=run_id(),
                pipeline=planned.pipeline.document.name,
                in_flight=limits.in_flight,
                timeout=limits.timeout,
                costs=CostLimits(
                    per_run=min(caps, default=None),
                    per_day=limits.max_cost_usd_per_day,
                    ceilings=limits.cost_ceilings,
                    allow_unknown=allow_unknown_cost,
                ),
                refresh=refresh,
                verify=verify,
                new_only=planned.pipeline.document.source.new_only,
                hands_on=planned.dag.handing_on,
                contact_sheet=planned.pipeline.document.output.contact_sheet,
                is_shard=part is not None,
                share=limits.shared_label,
            )
            return planned, run

        if part:
            return await finish_shard(part, run_id(), content, plan, services, began)
        planned, run = await plan(None)
        for note in (*planned.notes, *await namesakes(planned.jobs, services)):
            tell(Note(note))
        giving = {**given, "date": day.isoformat()}
        results = await run_in_shards(
            planned, run, services, asked=shards, parameters=giving, plan=plan
        )
        outcomes = await execute(planned.schedule(), run, services, results)
        state = await finish(outcomes, run, services, started, began)
        if not run.cancel_token.hands_over:
            # From here on a retry begins anew.
            with suppress(ComfylineError):
                await services.ledger.shards.forget(run.id)
        return state

    return await with_services(profile, work, unchecked=unchecked)
