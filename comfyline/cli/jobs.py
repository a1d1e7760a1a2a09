"""jobs: the ledger, for people and for programs."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.console import answer, results, say
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import (
    PipelineName,
    RunId,
    reading_ledger,
    say_unrecorded,
    warn,
    whose,
)
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import how_far_in_words, sent_at
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import kept_until
from comfyline.report.format import count, span, usd

_MAY_COST = {JobState.IN_DOUBT, JobState.SUBMITTING}


def jobs(
    *,
    state: Annotated[JobState | None, Parameter(help="Only jobs in this state.")] = None,
    pipeline: PipelineName = None,
    run: RunId = None,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """List the ledger: every request, its state, cost and outputs, newest first.

    Example: comfyline jobs --state in_doubt
    """
    selected = Selection(state=state, pipeline=pipeline, run_id=run)

    async def work() -> tuple[Sequence[Attempt], datetime]:
        with reading_ledger(profile, of_all=True) as ledger:
            await say_unrecorded(profile, ledger)
            return await ledger.list(selected), (await ledger.clock())()

    attempts, now = asyncio.run(work())
    if json_output:
        answer(json.dumps([_as_json(attempt) for attempt in attempts]))
    else:
        results.print(_doubts(attempts, now) if state is JobState.IN_DOUBT else _all(attempts))
    doubts = sum(attempt.state is JobState.IN_DOUBT for attempt in attempts)
    if doubts:
        say(f"{count(doubts, 'job')} in doubt: {_resolving(attempts)} shows what is known.")
    warn(attempts, now)
    return 0


def _resolving(attempts: Sequence[Attempt]) -> str:
    """Return the commands that show what is known of the doubts: one for each profile."""
    doubts = (one for one in attempts if one.state is JobState.IN_DOUBT)
    return " or ".join(dict.fromkeys(one.command("resolve JOB") for one in doubts))


def _all(attempts: Sequence[Attempt]) -> Table:
    columns = ("job", "pipeline", "item", "step", "state", "estimate", "cost", "request", "updated")
    several = len({attempt.account for attempt in attempts}) > 1
    table = _table((*columns[:1], "where", *columns[1:]) if several else columns)
    for attempt in attempts:
        job = attempt.checked.job
        table.add_row(
            short(attempt.checked.key),
            *([str(attempt.account or "not known")] if several else []),
            job.pipeline,
            job.label,
            job.step,
            attempt.state,
            _dollars(attempt.checked.estimate_usd),
            _cost(attempt),
            attempt.request_id or "",
            f"{attempt.updated_at.astimezone():%Y-%m-%d %H:%M:%S}",
        )
    return table


def _doubts(attempts: Sequence[Attempt], now: datetime) -> Table:
    """Show what a person needs who is about to ask what became of a POST."""
    table = _table(("job", "model", "item", "sent", "age", "estimate", "how far"))
    for attempt in attempts:
        left = sent_at(attempt)
        table.add_row(
            short(attempt.checked.key),
            attempt.checked.job.model_id,
            attempt.checked.job.label,
            f"{left.astimezone():%Y-%m-%d %H:%M:%S}",
            span((now - left).total_seconds()),
            _dollars(attempt.checked.estimate_usd),
            how_far_in_words(attempt),
        )
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in {"item", "how far"})
    return table


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else usd(amount)


def _cost(attempt: Attempt) -> str:
    """Return what it cost; empty for what nobody accepted, which costs nothing."""
    if attempt.cost_usd is None and not attempt.request_id and attempt.state not in _MAY_COST:
        return ""
    return _dollars(attempt.cost_usd)


def _as_json(attempt: Attempt) -> dict[str, Any]:
    job, evidence, end = attempt.checked.job, attempt.evidence, kept_until(attempt)
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        **whose(attempt),
        "run_id": attempt.run_id,
        "pipeline": job.pipeline,
        "item": job.item,
        "step": job.step,
        "model": job.model_id,
        "state": attempt.state.value,
        "request_id": attempt.request_id,
        "cost_usd": attempt.cost_usd,
        "estimate_usd": attempt.checked.estimate_usd,
        "created_at": attempt.created_at.isoformat(),
        "sent_at": attempt.claimed_at.isoformat() if attempt.claimed_at else None,
        "submitted_at": attempt.submitted_at.isoformat() if attempt.submitted_at else None,
        "updated_at": attempt.updated_at.isoformat(),
        "kept_until": end.isoformat() if end else None,
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
        "doubt": {
            "how_far": evidence.how_far,
            "reason": evidence.reason,
            "balance_before_usd": evidence.balance_before_usd,
        }
        if attempt.state is JobState.IN_DOUBT
        else None,
    }
