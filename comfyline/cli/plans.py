"""plan and check: what would happen, and what is wrong, before anything is spent or written."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from comfyline.cli.options import Json, Limit, MaxCost, Overrides, Profile, Refresh, Unchecked
from comfyline.cli.speech import answer, explain, results, say
from comfyline.config_files import model_directories
from comfyline.environment import home, look
from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import Job
from comfyline.judging import judge_with
from comfyline.models.entry import ModelEntry
from comfyline.models.kept import KeptModels
from comfyline.models.library import find_model, list_models
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.plan import RunScope, plan_jobs
from comfyline.pipeline.sources import read_items
from comfyline.planning import plan_pipeline
from comfyline.report.words import count, usd
from comfyline.run import CostLimits, Run
from comfyline.services import kept_models, now, open_services
from comfyline.storage.bucket import Bucket
from comfyline.storage.known_files import KNOWN_FILES
from comfyline.storage.origins import Origins
from comfyline.survey import Survey, estimate, reasons, survey
from comfyline.yamlfile import did_you_mean


def plan(
    pipeline: Path,
    /,
    *,
    profile: Profile = "sandbox",
    overrides: Overrides = (),
    limit: Limit = None,
    refresh: Refresh = False,
    max_cost: MaxCost = None,
    unchecked: Unchecked = False,
    json_output: Json = False,
) -> int:
    """Show what `run` would make, what is there already and what it would cost; spends nothing.

    Example: comfyline plan configs/pipelines/office-scenes.yaml --profile production

    Parameters
    ----------
    pipeline
        The pipeline's YAML file.
    """

    async def work() -> tuple[Survey, float | None, Counter[str]]:
        async with open_services(look(profile), reading=True, unchecked=unchecked) as services:
            planned = await plan_pipeline(
                pipeline, overrides, limit, "plan", now(), services.catalogue
            )
            limits = planned.pipeline.document.limits
            run = Run(
                id="plan",
                pipeline=planned.pipeline.document.name,
                in_flight=limits.in_flight,
                timeout=limits.timeout,
                costs=CostLimits(per_run=max_cost),
                refresh=refresh,
            )
            surveyed = await survey(planned.jobs, run, services)
            why = Counter(reasons(surveyed, run))
            return surveyed, await estimate(surveyed, run, services), why

    surveyed, cost, why = asyncio.run(work())
    for note in surveyed.notes:
        say(note)
    if surveyed.mistakes:
        explain(InputInvalid(surveyed.mistakes))
    there, to_make = len(surveyed.there), len(surveyed.to_make)
    if json_output:
        answer(
            json.dumps(
                {
                    "pipeline": pipeline.stem,
                    "jobs": there + to_make,
                    "reused": there,
                    "to_make": to_make,
                    "reasons": dict(why),
                    "estimate_usd": cost,
                }
            )
        )
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("there already", str(there))
    table.add_row("to make", str(to_make), ", ".join(f"{why[one]} {one}" for one in why))
    table.add_row("estimated cost", "unknown" if cost is None else usd(cost))
    results.print(table)
    return 0


def check(*pipelines: Path) -> int:
    """Find every mistake in the files at once, each with its place and what to write instead.

    Example: comfyline check configs/pipelines/*.yaml

    Parameters
    ----------
    pipelines
        The pipeline files.
    """
    problems: list[Problem] = []
    for path in pipelines:
        try:
            problems += asyncio.run(_mistakes(path))
        except InputInvalid as error:
            problems += error.problems
    if problems:
        explain(InputInvalid(dict.fromkeys(problems)))
        return InputInvalid.exit_code
    say(f"{count(len(pipelines), 'file')} checked: no mistakes.")
    return 0


async def _mistakes(path: Path) -> list[Problem]:
    """Every mistake of one file that can be found without RunComfy."""
    pipeline = load_pipeline(path)
    planned = plan_jobs(pipeline, read_items(pipeline), RunScope("check", f"{now():%Y-%m-%d}"))
    problems = list(planned.problems)
    directories, kept = model_directories(Path.cwd()), KeptModels(kept_models(home()))
    pairs: list[tuple[Job, ModelEntry | ComfylineError]] = []
    for job in planned.jobs:
        known = find_model(job.model_id, directories)
        found = None if known else kept.find(job.model_id)
        entry = found.entry if found else known
        names = [] if entry else [one.model_id for one in (*list_models(directories), *kept.list())]
        pairs.append((job, entry or _unknown(job, path, names)))
    async with Bucket(None, None, None) as bucket:
        verdicts = await judge_with(pairs, Origins(bucket, home() / KNOWN_FILES))
    return [*problems, *verdicts.mistakes]


def _unknown(job: Job, path: Path, names: Sequence[str]) -> InputInvalid:
    hint = f"`comfyline models pull {job.model_id}` takes it from RunComfy"
    if near := did_you_mean(job.model_id, names):
        hint = f"{near} Otherwise {hint}"
    message = f"{job.model_id} is not in configs/models/"
    return InputInvalid([Problem(job.source or str(path), message, hint)])
