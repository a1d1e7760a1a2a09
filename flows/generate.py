"""The flow of one ad-hoc request: the same six tasks, without a YAML file."""

import hashlib
import json
import time
from dataclasses import replace
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from comfyline.errors import ComfylineError
from comfyline.job import Job, Placement
from comfyline.models.check import fit_inputs
from comfyline.pipeline.labels import check_labels
from comfyline.plan.schedule import Schedule
from comfyline.report.summary import RunSummary
from comfyline.run import CostLimits, Run
from comfyline.services import Services, now
from flows.finish import finish
from flows.parameters import (
    AllowUnknownCost,
    Folder,
    Inputs,
    Labels,
    MaxCost,
    ModelId,
    Profile,
    Refresh,
    Unchecked,
    as_given,
)
from flows.schedule import execute
from flows.session import run_id, with_services

_TIMEOUT = 1800.0


@flow(name="generate", flow_run_name="{model_id}", retries=0)
async def generate(
    *,
    model_id: ModelId,
    inputs: Inputs,
    profile: Profile,
    output: Folder = "outputs/generate",
    refresh: Refresh = False,
    max_cost_usd: MaxCost = None,
    allow_unknown_cost: AllowUnknownCost = False,
    unchecked: Unchecked = False,
    labels: Labels = None,
) -> State[RunSummary] | State[ComfylineError]:
    """Make one request and store its outputs.

    Args:
        model_id: The model, as the catalogue names it: google/nano-banana/pro/edit.
        inputs: The model's inputs, such as {"prompt": "at night", "image_urls": ["photo.jpg"]}; a
            media field takes a local path, s3:// or https://.
        profile: Where it runs: the name of a file in configs/profiles/, or a path to one.
        output: Where the outputs go: a folder or s3://bucket/prefix.
        refresh: Make it again although it is there, and pay for it again.
        max_cost_usd: Do not submit it when it would cost more than so many dollars.
        allow_unknown_cost: Submit it also when its price is unknown although there is a limit.
        unchecked: Submit also to a model whose schema is nowhere to be had: nothing of its inputs
            is checked, its price is unknown, and only @file and s3:// values are media.
        labels: Whose it is, by name, for reports: {"client": "acme"}.
    """
    started, began = now(), time.monotonic()

    async def work(services: Services) -> State[RunSummary]:
        run = Run(
            id=run_id(),
            pipeline="generate",
            in_flight=1,
            timeout=_TIMEOUT,
            costs=CostLimits(per_run=max_cost_usd, allow_unknown=allow_unknown_cost),
            refresh=refresh,
        )
        entry = await services.catalogue.entry(model_id)
        asked = fit_inputs(entry, as_given("inputs", inputs))
        job = replace(
            ad_hoc_job(model_id, asked, as_given("output", output)),
            labels=check_labels(labels or {}),
        )
        outcomes = await execute(Schedule.of(job), run, services)
        return await finish(outcomes, run, services, started, began)

    return await with_services(profile, work, unchecked=unchecked)


def ad_hoc_job(model_id: str, inputs: dict[str, Any], output: str) -> Job:
    """Build the job of one request; its name follows from its content, so asking again finds it."""
    asked = json.dumps([model_id, inputs], sort_keys=True, default=str)
    name = f"{model_id.replace('/', '-')}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    return Job(
        pipeline="generate",
        item=name,
        step="generate",
        model_id=model_id,
        inputs=inputs,
        placement=Placement(output, "{{ item_name }}-{{ index }}.{{ ext }}", {"item_name": name}),
    )
