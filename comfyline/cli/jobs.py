"""jobs, cancel, resolve: the ledger, and the human answers to it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.options import Json, Profile
from comfyline.cli.speech import answer, results, say
from comfyline.environment import prepare, profile_ledger_url
from comfyline.errors import Cancelled, ComfylineError, UsageError
from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.records import Attempt
from comfyline.ledger.refusals import short
from comfyline.report.words import usd
from comfyline.services import open_ledger, open_services

_QUEUED = {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS}


def jobs(
    *,
    state: Annotated[JobState | None, Parameter(help="Only jobs in this state.")] = None,
    pipeline: Annotated[str | None, Parameter(help="Only jobs of this pipeline.")] = None,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """List the ledger: every request, its state, cost and outputs, newest first.

    Example: comfyline jobs --state in_doubt
    """
    with _ledger(profile) as ledger:
        attempts = asyncio.run(ledger.list(state, pipeline))
    if json_output:
        answer(json.dumps([_as_json(attempt) for attempt in attempts]))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "pipeline", "item", "step", "state", "cost", "request", "updated"):
        table.add_column(column, no_wrap=column != "item")
    for attempt in attempts:
        job = attempt.checked.job
        table.add_row(
            short(attempt.checked.key),
            job.pipeline,
            job.label,
            job.step,
            attempt.state,
            usd(attempt.cost_usd),
            attempt.request_id or "",
            f"{attempt.updated_at.astimezone():%Y-%m-%d %H:%M:%S}",
        )
    results.print(table)
    return 0


def cancel(*job: str, profile: Profile = "sandbox") -> int:
    """Cancel jobs that are queued; says honestly what can no longer be cancelled.

    Example: comfyline cancel 3f2a9c01

    Parameters
    ----------
    job
        Job keys, or as many of their first characters as tell them apart.
    """

    async def work() -> int:
        code = 0
        async with open_services(await prepare(profile, say)) as services:
            for prefix in job:
                attempt = await _find(services.ledger, prefix)
                if attempt.state not in _QUEUED or attempt.request_id is None:
                    say(f"{prefix}: it is {attempt.state}, there is nothing to cancel.")
                    code = 1
                    continue
                outcome = await services.client.cancel(attempt.request_id)
                say(f"{prefix}: request {attempt.request_id} is {outcome.replace('_', ' ')}.")
                if outcome == "cancelled":
                    error = Cancelled("It was cancelled by `comfyline cancel`")
                    await services.ledger.ended(attempt.id, JobState.CANCELLED, error)
                else:
                    code = 1
        return code

    return asyncio.run(work())


def resolve(
    job: str,
    /,
    *,
    lost: Annotated[
        bool, Parameter(negative="", help="RunComfy never accepted it: it may be submitted again.")
    ] = False,
    request_id: Annotated[
        str | None, Parameter(help="RunComfy accepted it under this id: it is collected.")
    ] = None,
    profile: Profile = "sandbox",
) -> int:
    """Answer for a submission whose outcome is unknown, after looking at RunComfy.

    Example: comfyline resolve 3f2a9c01 --lost

    Parameters
    ----------
    job
        The job's key, or as many of its first characters as tell it apart.
    """
    if lost == (request_id is not None):
        raise UsageError("Say one of --lost and --request-id ID")

    async def work() -> None:
        async with open_services(await prepare(profile, say)) as services:
            await services.ledger.end_dead_leases()
            attempt = await _find(services.ledger, job)
            if attempt.state is not JobState.IN_DOUBT:
                raise UsageError(f"Job {job} is {attempt.state}, not in doubt")
            if request_id is None:
                error = ComfylineError("A person found that it was never accepted")
                await services.ledger.ended(attempt.id, JobState.FAILED, error)
                say(f"{job}: the next run submits it again.")
                return
            status = await services.client.status(request_id)
            await services.ledger.accepted(attempt.id, request_id)
            say(f"{job}: request {request_id} is {status.word}; `comfyline reconcile` collects it.")

    asyncio.run(work())
    return 0


@contextmanager
def _ledger(profile: str) -> Iterator[Ledger]:
    ledger = open_ledger(profile_ledger_url(profile), reading=True)
    try:
        yield ledger
    finally:
        ledger.close()


async def _find(ledger: Ledger, prefix: str) -> Attempt:
    """The latest attempt of the one job whose key begins so. Raises `UsageError`."""
    found = {a.checked.key: a for a in reversed(await ledger.list(None, None))}
    keys = [key for key in found if key.startswith(prefix)]
    if len(keys) != 1:
        problem = "No job" if not keys else f"{len(keys)} jobs"
        raise UsageError(f"{problem} with a key that begins with {prefix!r}", hint="comfyline jobs")
    return found[keys[0]]


def _as_json(attempt: Attempt) -> dict[str, Any]:
    job = attempt.checked.job
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        "pipeline": job.pipeline,
        "item": job.item,
        "step": job.step,
        "model": job.model_id,
        "state": attempt.state.value,
        "request_id": attempt.request_id,
        "cost_usd": attempt.cost_usd,
        "created_at": attempt.created_at.isoformat(),
        "updated_at": attempt.updated_at.isoformat(),
        "outputs": [
            {
                "index": output.index,
                "uri": output.uri,
                "sha256": output.sha256,
                "bytes": output.bytes,
                "media_type": output.media_type,
            }
            for output in attempt.outputs
        ],
        "error": {"kind": attempt.error_kind, "message": attempt.error_message}
        if attempt.error_kind
        else None,
    }
