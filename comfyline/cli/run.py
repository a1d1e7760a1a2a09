"""run: a pipeline to its end."""

import asyncio
from typing import Any

from comfyline.cli.flow_run import run_and_report
from comfyline.cli.options import (
    AllowUnknownCost,
    Json,
    Limit,
    MaxCost,
    Overrides,
    PipelineFile,
    Profile,
    Refresh,
    Unchecked,
    Verify,
)
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.sources import read_items
from flows.parameters import handed_over, kept_out_of_prefect


def run(
    pipeline: PipelineFile,
    /,
    *,
    profile: Profile = "sandbox",
    overrides: Overrides = (),
    limit: Limit = None,
    refresh: Refresh = False,
    max_cost: MaxCost = None,
    allow_unknown_cost: AllowUnknownCost = False,
    verify: Verify = False,
    unchecked: Unchecked = False,
    json_output: Json = False,
) -> int:
    """Run a pipeline to its end with live progress; makes only what is not there yet.

    Example: comfyline run configs/pipelines/office-scenes.yaml --limit 2
    """
    read: list[Pipeline] = []

    def check() -> None:
        read.append(load_pipeline(pipeline, overrides))
        asyncio.run(_check_items(read[0], limit))

    async def flow() -> Any:
        from flows.pipeline import pipeline as pipeline_flow

        with kept_out_of_prefect(overrides=list(overrides)) as stored, handed_over(*read):
            return await pipeline_flow(
                path=str(pipeline),
                profile=profile,
                limit=limit,
                refresh=refresh,
                max_cost_usd=max_cost,
                allow_unknown_cost=allow_unknown_cost,
                verify=verify,
                unchecked=unchecked,
                return_state=True,
                **stored,
            )

    return run_and_report(pipeline.stem, profile, flow, check=check, json_output=json_output)


async def _check_items(pipeline: Pipeline, limit: int | None) -> None:
    await read_items(pipeline, None, limit)
