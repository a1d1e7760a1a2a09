"""jobs: the ledger, for people and for programs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.console import print_json, print_line, results, table
from comfyline.cli.options import Json, PipelineName, Profile, RunId
from comfyline.cli.selection import (
    attempt_record,
    print_unrecorded,
    print_warnings,
    reading_ledger,
)
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.in_doubt import how_far_in_words, sent_at
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import kept_until
from comfyline.report.format import count, span, usd

_OUTPUT_FIELDS = ("index", "uri", "sha256", "bytes", "media_type")
_MAY_COST = {JobState.IN_DOUBT, JobState.SUBMITTING}
_TIME = "%Y-%m-%d %H:%M:%S"


async def jobs(
    *,
    state: Annotated[JobState | None, Parameter(help="Only jobs in this state.")] = None,
    pipeline: PipelineName = None,
    run: RunId = None,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> None:
    """List the ledger: every request, its state, cost and outputs, newest first.

    Example: comfyline jobs --state in_doubt
    """
    with reading_ledger(profile, of_all=True) as ledger:
        await print_unrecorded(profile, ledger)
        attempts = await ledger.list(Selection(state=state, pipeline=pipeline, run_id=run))
        now = (await ledger.clock())()
    if json_output:
        print_json([_as_json(attempt) for attempt in attempts])
    else:
        results.print(_doubts(attempts, now) if state is JobState.IN_DOUBT else _all(attempts))
    doubts = [one for one in attempts if one.state is JobState.IN_DOUBT]
    if doubts:
        # One command for each profile.
        shows = " or ".join(dict.fromkeys(one.command("resolve JOB") for one in doubts))
        print_line(f"{count(len(doubts), 'job')} in doubt: {shows} shows what is known.")
    print_warnings(attempts, now)


def _all(attempts: Sequence[Attempt]) -> Table:
    columns = ("job", "pipeline", "item", "step", "state", "estimate", "cost", "request", "updated")
    several = len({attempt.account for attempt in attempts}) > 1
    shown = table(*columns[:1], *(["where"] * several), *columns[1:], wrapping={"item"})
    for attempt in attempts:
        job = attempt.checked.job
        shown.add_row(
            short(attempt.checked.key),
            *([str(attempt.account or "not known")] if several else []),
            job.pipeline,
            job.label,
            job.step,
            attempt.state,
            _dollars(attempt.checked.estimate_usd),
            _cost(attempt),
            attempt.request_id or "",
            f"{attempt.updated_at.astimezone():{_TIME}}",
        )
    return shown


def _doubts(attempts: Sequence[Attempt], now: datetime) -> Table:
    """List the doubts with what a person needs to find out what became of each."""
    columns = ("job", "model", "item", "sent", "age", "estimate", "how far")
    shown = table(*columns, wrapping={"item", "how far"})
    for attempt in attempts:
        left = sent_at(attempt)
        shown.add_row(
            short(attempt.checked.key),
            attempt.checked.job.model_id,
            attempt.checked.job.label,
            f"{left.astimezone():{_TIME}}",
            span((now - left).total_seconds()),
            _dollars(attempt.checked.estimate_usd),
            how_far_in_words(attempt),
        )
    return shown


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else usd(amount)


def _cost(attempt: Attempt) -> str:
    """Return what it cost; empty for what nobody accepted, which costs nothing."""
    if attempt.cost_usd is None and not attempt.request_id and attempt.state not in _MAY_COST:
        return ""
    return _dollars(attempt.cost_usd)


def _as_json(attempt: Attempt) -> dict[str, Any]:
    evidence = attempt.evidence
    doubt = {
        "how_far": evidence.how_far,
        "reason": evidence.reason,
        "balance_before_usd": evidence.balance_before_usd,
    }
    error = {"kind": attempt.error_kind, "message": attempt.error_message}
    return {
        **attempt_record(attempt),
        "cost_usd": attempt.cost_usd,
        "estimate_usd": attempt.checked.estimate_usd,
        "created_at": attempt.created_at.isoformat(),
        "sent_at": _iso(attempt.claimed_at),
        "submitted_at": _iso(attempt.submitted_at),
        "updated_at": attempt.updated_at.isoformat(),
        "kept_until": _iso(kept_until(attempt)),
        "outputs": [
            {name: getattr(output, name) for name in _OUTPUT_FIELDS} for output in attempt.outputs
        ],
        "error": error if attempt.error_kind else None,
        "doubt": doubt if attempt.state is JobState.IN_DOUBT else None,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
