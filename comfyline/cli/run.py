"""run: a pipeline to its end."""

from dataclasses import replace
from typing import Any

from comfyline.cli import options
from comfyline.cli.flow_run import run_and_report
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.sources import read_items, stored_source
from comfyline.report.summary import RunSummary
from flows.parameters import handed_over, kept_out_of_prefect


async def run(
    pipeline: options.PipelineFile,
    /,
    *,
    profile: options.Profile = "sandbox",
    date: options.Date = None,
    overrides: options.Overrides = (),
    limit: options.Limit = None,
    refresh: options.Refresh = False,
    max_cost: options.MaxCost = None,
    allow_unknown_cost: options.AllowUnknownCost = False,
    verify: options.Verify = False,
    unchecked: options.Unchecked = False,
    shards: options.Shards = None,
    json_output: options.Json = False,
) -> int:
    """Run a pipeline to its end with live progress; makes only what is not there yet.

    Example: comfyline run configs/pipelines/office-scenes.yaml --limit 2
    """
    days = options.days_of(date)
    to_run = iter(days or (None,))
    spent = 0.0

    async def read() -> Pipeline:
        loaded = load_pipeline(pipeline, overrides)
        items = await read_items(loaded, None, limit)
        # What lies in object storage is listed by the flow, which knows the storage.
        return loaded if stored_source(loaded) else replace(loaded, items=items)

    async def flow(loaded: Pipeline) -> Any:
        from flows.pipeline import pipeline as pipeline_flow

        nonlocal spent
        with kept_out_of_prefect(overrides=list(overrides)) as stored, handed_over(loaded):
            state = await pipeline_flow(
                path=str(pipeline),
                profile=profile,
                date=next(to_run),
                limit=limit,
                refresh=refresh,
                # All days together may cost so much.
                max_cost_usd=None if max_cost is None else max(max_cost - spent, 0.0),
                allow_unknown_cost=allow_unknown_cost,
                verify=verify,
                unchecked=unchecked,
                shards=shards,
                return_state=True,
                **stored,
            )
        summary = await state.aresult(raise_on_failure=False)
        if isinstance(summary, RunSummary):
            spent += summary.cost_usd + summary.reserved_usd
        return state

    return await run_and_report(
        pipeline.stem, profile, read, flow, days=days, json_output=json_output
    )
