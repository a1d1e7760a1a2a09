"""The flow that finishes what interrupted runs left behind, oldest paid first.

It says what it found and what became of each. Safe beside running pipelines: what another process
works on is left to it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from prefect import flow
from prefect.client.schemas.objects import State

from comfyline.config.account import command
from comfyline.errors import ComfylineError, Unreachable
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import elsewhere_in_words, short
from comfyline.ledger.in_doubt import sent_at
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import warnings
from comfyline.ledger.unrecorded import unrecorded, unrecorded_in_words
from comfyline.operations.adopt import recognise
from comfyline.operations.recover import clean_up, forget_results
from comfyline.progress import DoubtFound, Note, ResultsAtRisk, RunPlanned, tell
from comfyline.report.format import count, span
from comfyline.report.summary import RunSummary
from comfyline.run import CostLimits, Outcome, Run
from comfyline.services import Services, now
from flows.events import untold_doubts
from flows.finish import finish
from flows.missed_runs import report_missed_runs
from flows.parameters import Profile, WindowHours
from flows.schedule import run_jobs
from flows.session import run_id, with_services

_WAIT = 240.0
"""Seconds to wait for what still runs: the next run comes in minutes, and nothing is lost."""

_TOO_LONG = 5 * 86400.0
"""Seconds that a result may lie at RunComfy, which keeps it for 7 days."""

_NAMED = 20
"""How many doubts are named one by one."""


@flow(name="reconcile", flow_run_name="reconcile", retries=0)
async def reconcile(
    profile: Profile, window_hours: WindowHours = 3.0
) -> State[RunSummary] | State[ComfylineError]:
    """Poll, fetch and store everything that was paid for and is not stored yet.

    Args:
        profile: Where it runs: the name of a file in configs/profiles/, or a path to one.
        window_hours: So many hours after its scheduled time a pipeline has to have completed; else
            an event is emitted, of which an alert makes a message.
    """
    started, began = now(), time.monotonic()
    # First: nobody may learn of a missed night only because the ledger is away as well.
    await report_missed_runs(timedelta(hours=window_hours), started)

    async def work(services: Services) -> State[RunSummary]:
        known = await services.ledger.unfinished()
        await clean_up((attempt.checked.job.placement.folder for attempt in known), services)
        await asyncio.to_thread(forget_results, services.settings.home, started)
        unfinished = await services.ledger.unfinished()
        checked = [attempt.checked for attempt in unfinished]
        # Where the outputs lie cannot be looked at: then RunComfy is asked.
        with suppress(Unreachable):
            summaries = await services.ledger.summaries([one.key for one in checked])
            await recognise(checked, summaries, services)
        left = await services.ledger.unfinished()
        for text in (
            *(text for _, text in warnings(left, services.now())),
            *unrecorded_in_words(await unrecorded(services.journal, services.ledger)),
            _what_is_left(left, services.now()),
            *elsewhere_in_words(await services.ledger.unfinished_elsewhere()),
        ):
            tell(Note(text))
        run = Run(
            id=run_id(),
            pipeline="reconcile",
            in_flight=services.settings.runcomfy.in_flight,
            timeout=_WAIT,
            costs=CostLimits(),
            refresh=False,
            least_wait=_WAIT,
            collects_only=True,
        )
        stored = len(unfinished) - len(left)
        tell(RunPlanned(run.id, run.pipeline, len(unfinished), stored, 0.0))
        found = [(one.job, one) for one in checked]
        outcomes = await run_jobs(found, run, services, waits_for_others=False)
        if risk := _at_risk(await services.ledger.unfinished(), services.now()):
            tell(risk)
        doubts = await services.ledger.list(Selection(state=JobState.IN_DOUBT))
        untold = await untold_doubts({one.checked.key: sent_at(one) for one in doubts})
        for one in doubts:
            if one.checked.key in untold:
                tell(DoubtFound(one.checked.key, one.checked.job, one.error_message or ""))
        for text in (*map(_stored, outcomes), *_doubts(doubts[::-1])):
            if text:
                tell(Note(text))
        return await finish(outcomes, run, services, started, began)

    return await with_services(profile, work)


def _what_is_left(left: Sequence[Attempt], now: datetime) -> str:
    if not left:
        return "Nothing is left to do: everything that was paid for is stored"
    pipelines = Counter(attempt.checked.job.pipeline for attempt in left)
    named = ", ".join(f"{name} {number:,}" for name, number in pipelines.most_common())
    oldest = left[0].submitted_at or left[0].created_at
    age = span((now - oldest).total_seconds())
    return f"{count(len(left), 'job')} paid for and not stored ({named}); the oldest {age} ago"


def _at_risk(left: Sequence[Attempt], now: datetime) -> ResultsAtRisk | None:
    """Return what is to be told of results that lie at RunComfy for too long; None for none."""
    ages = [(now - one.submitted_at).total_seconds() for one in left if one.submitted_at]
    old = [age for age in ages if age > _TOO_LONG]
    return ResultsAtRisk(len(old), max(old)) if old else None


def _stored(outcome: Outcome) -> str:
    """Tell where a job's outputs lie now; empty for one that has said why it has none."""
    if not outcome.outputs:
        return ""
    job, uris = outcome.job, ", ".join(output.uri for output in outcome.outputs)
    return f"{short(outcome.key)} {job.label} ({job.pipeline}): stored as {uris}"


def _doubts(doubts: Sequence[Attempt]) -> Iterable[str]:
    """Return the doubts, which no machine can end, each with the command that shows its facts."""
    for attempt in doubts[:_NAMED]:
        job, key = attempt.checked.job, short(attempt.checked.key)
        since = f"{sent_at(attempt):%Y-%m-%d %H:%M} UTC"
        resolve = attempt.command(f"resolve {key}")
        yield f"in doubt since {since}: {job.label} ({job.pipeline}): {resolve}"
    if len(doubts) > _NAMED:
        more = count(len(doubts) - _NAMED, "more job")
        yield f"and {more} in doubt: {command('jobs --state in_doubt')}"
