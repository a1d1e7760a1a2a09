"""cancel: jobs, a whole run, or a whole pipeline."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_line
from comfyline.cli.options import JobKey, Profile
from comfyline.cli.selection import find_jobs, print_elsewhere
from comfyline.config.account import command
from comfyline.config.load import ONLY_RUNCOMFY, prepare
from comfyline.errors import UsageError
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.queries import Selection
from comfyline.operations.cancel import cancel_all, cancellable
from comfyline.report.format import count
from comfyline.services import Services, open_services


async def cancel(
    *job: JobKey,
    run: Annotated[
        str | None, Parameter(help="A whole run, on any machine: it submits nothing more.")
    ] = None,
    pipeline: Annotated[
        str | None, Parameter(help="All runs of this pipeline, on any machine.")
    ] = None,
    profile: Profile = "sandbox",
) -> int:
    """Cancel what is queued: jobs, a run, or a pipeline; says what can no longer be cancelled.

    Example: comfyline cancel 3f2a9c01, or comfyline cancel --pipeline office-scenes
    """
    if sum([bool(job), run is not None, pipeline is not None]) != 1:
        raise UsageError("Name what to cancel: jobs, --run RUN_ID or --pipeline NAME")
    settings = await prepare(profile, print_line, only=ONLY_RUNCOMFY)
    async with open_services(settings) as services:
        if job:
            return await _cancel_jobs(job, services)
        code = await _cancel_selected(Selection(run_id=run, pipeline=pipeline), services)
        await print_elsewhere(services.ledger)
        return code


async def _cancel_jobs(keys: Sequence[str], services: Services) -> int:
    attempts = await find_jobs(services.ledger, keys)
    there = cancellable(attempts)
    for one in attempts:
        if one not in there:
            key = short(one.checked.key)
            print_line(f"{key}: it is {one.state}; there is nothing to cancel.")
    are_cancelled = await _cancel(there, services)
    return 0 if are_cancelled and len(there) == len(attempts) else 1


async def _cancel_selected(selected: Selection, services: Services) -> int:
    run, pipeline = selected.run_id, selected.pipeline
    if run is not None:
        stopped = int(await services.ledger.stop_run(run))
    else:
        stopped = await services.ledger.stop_pipeline(pipeline or "")
    attempts = await services.ledger.list(selected)
    if not stopped and not attempts:
        what = f"run {run!r}" if run is not None else f"pipeline {pipeline!r}"
        raise UsageError(
            f"The ledger knows no {what}", hint=f"{command('jobs')} lists what it knows."
        )
    if stopped:
        which = f"Run {run} submits" if run is not None else f"The runs of {pipeline} submit"
        print_line(f"{which} nothing more, on any machine.")
    there = cancellable(attempts)
    are_cancelled = await _cancel(there, services)
    sending = [one for one in attempts if one.state is JobState.SUBMITTING]
    if sending:
        print_line(
            f"{count(len(sending), 'job')} being submitted right now: the process that submits "
            "them cancels them itself; if it has died, they become in doubt."
        )
    if not there and not sending:
        print_line("None of its requests is at RunComfy.")
    return 0 if are_cancelled and not sending else 1


async def _cancel(attempts: Sequence[Attempt], services: Services) -> bool:
    """Cancel requests, print how each ended, and tell whether all are cancelled."""
    ended = await cancel_all(attempts, "by `comfyline cancel`", services)
    for one in ended:
        key, request_id = short(one.attempt.checked.key), one.attempt.request_id
        print_line(f"{key}: request {request_id} {one.answer}.")
    left = sum(not one.is_cancelled for one in ended)
    if left:
        subject, it = ("It is", "it") if left == 1 else (f"These {left:,} are", "them")
        collects = f"{command('reconcile')} or the next run collects {it}"
        print_line(f"{subject} paid for and not lost: {collects}.")
    return not left
