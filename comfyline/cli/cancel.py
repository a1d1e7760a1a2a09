"""cancel: jobs, a whole run, or a whole pipeline; what can no longer be cancelled is said."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import say
from comfyline.cli.options import Profile
from comfyline.cli.selection import say_elsewhere, the_jobs
from comfyline.config.account import command
from comfyline.config.environment import ONLY_RUNCOMFY, prepare
from comfyline.errors import UsageError
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.queries import Selection
from comfyline.operations.cancel import Cancellation, cancel_all, cancellable
from comfyline.report.format import count
from comfyline.services import Services, open_services


def cancel(
    *job: str,
    run: Annotated[
        str | None,
        Parameter(name="--run", help="A whole run, wherever it runs: it submits nothing more."),
    ] = None,
    pipeline: Annotated[
        str | None, Parameter(name="--pipeline", help="All runs of this pipeline, likewise.")
    ] = None,
    profile: Profile = "sandbox",
) -> int:
    """Cancel what is queued: jobs, a run, or a pipeline; says what can no longer be cancelled.

    Example: comfyline cancel 3f2a9c01, or comfyline cancel --pipeline office-scenes

    Parameters
    ----------
    job
        Job keys, or as many of their first characters as tell them apart.
    """
    if sum([bool(job), run is not None, pipeline is not None]) != 1:
        raise UsageError("Say what to cancel: jobs, or --run RUN_ID, or --pipeline NAME")

    async def work() -> int:
        async with open_services(await prepare(profile, say, only=ONLY_RUNCOMFY)) as services:
            if job:
                attempts: Sequence[Attempt] = await the_jobs(services.ledger, job)
                return await _cancel_jobs(attempts, services)
            code = await _cancel_all(run, pipeline, services)
            await say_elsewhere(services.ledger)
            return code

    return asyncio.run(work())


async def _cancel_jobs(attempts: Sequence[Attempt], services: Services) -> int:
    there = cancellable(attempts)
    for attempt in attempts:
        if attempt not in there:
            say(f"{short(attempt.checked.key)}: it is {attempt.state}, there is nothing to cancel.")
    ended = await cancel_all(there, "by `comfyline cancel`", services)
    _tell(ended)
    return 0 if len(there) == len(attempts) and all(one.is_cancelled for one in ended) else 1


async def _cancel_all(run: str | None, pipeline: str | None, services: Services) -> int:
    selected = Selection(run_id=run, pipeline=pipeline)
    if run is not None:
        told = int(await services.ledger.stop_run(run))
    else:
        told = await services.ledger.stop_pipeline(pipeline or "")
    attempts = await services.ledger.list(selected)
    if not told and not attempts:
        what = f"run {run!r}" if run is not None else f"pipeline {pipeline!r}"
        raise UsageError(
            f"The ledger knows no {what}", hint=f"{command('jobs')} lists what it knows."
        )
    if told:
        which = f"Run {run} submits" if run is not None else f"The runs of {pipeline} submit"
        say(f"{which} nothing more, on whichever machine.")
    there = cancellable(attempts)
    ended = await cancel_all(there, "by `comfyline cancel`", services)
    _tell(ended)
    sending = [one for one in attempts if one.state is JobState.SUBMITTING]
    if sending:
        say(
            f"{count(len(sending), 'job')} being submitted at this moment: the process that does "
            "so cancels them itself; where it has died they become in doubt."
        )
    if not there and not sending:
        say("Nothing of it is at RunComfy.")
    return 0 if all(one.is_cancelled for one in ended) and not sending else 1


def _tell(ended: Sequence[Cancellation]) -> None:
    for one in ended:
        say(f"{short(one.attempt.checked.key)}: request {one.attempt.request_id} {one.answer}.")
    left = sum(not one.is_cancelled for one in ended)
    if left:
        what = "It is" if left == 1 else f"These {left:,} are"
        say(f"{what} paid for and not lost: {command('reconcile')} or the next run collects it.")
