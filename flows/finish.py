"""The end of a run: summary and gallery on disk, an artifact and a sentence in the Prefect UI."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx
from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Completed, Failed

from comfyline.errors import ComfylineError
from comfyline.files import appearing_whole
from comfyline.job import JobState
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import warnings
from comfyline.progress import Note, RunReported, tell
from comfyline.report.contact_sheet import store_contact_sheet
from comfyline.report.format import span
from comfyline.report.gallery import cards, write_gallery
from comfyline.report.index import write_index
from comfyline.report.summary import Charge, RunSummary, cost_in_words, headline, summarise
from comfyline.run import CancelToken, Outcome, Run
from comfyline.services import Services

_ROWS = 200
"""Outputs listed in the artifact: it lies in Prefect's database, the gallery holds all."""


async def finish(
    outcomes: Sequence[Outcome], run: Run, services: Services, started: datetime, began: float
) -> State[RunSummary]:
    """Write everything down and return the state in which the flow run ends.

    `began` is the monotonic time at which the run began.
    """
    folder = services.settings.home / "runs" / run.id
    gallery, index = folder / "gallery.html", folder / "index.jsonl"
    charges = await _charges(run, outcomes, services)
    indexed = await _indexed(index, outcomes, run, services)
    summary = summarise(run, outcomes, time.monotonic() - began, str(gallery), charges, indexed)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shown = cards(outcomes, services.thumbnails, charges)
        write_gallery(gallery, summary, started, shown)
        with appearing_whole(folder / "summary.json") as part:
            part.write_text(summary.to_json(), encoding="utf-8")

    await asyncio.to_thread(write)
    await _warn(run, services)
    sheet = await _sheet(outcomes, run, services)
    tell(RunReported(str(folder / "summary.json")))
    try:
        await acreate_markdown_artifact(
            _markdown(summary, sheet), key=_key(run.pipeline), description=headline(summary)
        )
    except (httpx.HTTPError, PrefectException) as error:
        # What was made is stored and written down; only a page about it is missing.
        get_run_logger().warning("no artifact: %s", error)
    return ended(summary, run.cancel_token)


async def _sheet(outcomes: Sequence[Outcome], run: Run, services: Services) -> Sequence[str]:
    """Store the contact sheet, where one is asked for; return the URIs of its pages."""
    if run.contact_sheet is None:
        return ()
    try:
        uris = await store_contact_sheet(
            run.contact_sheet, outcomes, services.thumbnails, services.places
        )
    except (ComfylineError, OSError) as error:
        # What was made is stored; a picture of it can be made again by the next run.
        tell(Note(f"No contact sheet: {error}"))
        return ()
    for uri in uris:
        tell(Note(f"Contact sheet: {uri}"))
    return uris


async def _indexed(
    path: Path, outcomes: Sequence[Outcome], run: Run, services: Services
) -> str | None:
    """Write the run index; return where it lies, or None when that could not be done."""
    try:
        made = await services.ledger.provenance([*{one.key: None for one in outcomes}])
        await asyncio.to_thread(write_index, path, outcomes, run.id, made)
    except (ComfylineError, OSError) as error:
        # What was made is stored; a list of it can be made again by the next run.
        get_run_logger().warning("no run index: %s", error)
        return None
    return str(path)


async def _warn(run: Run, services: Services) -> None:
    """Say what of this pipeline RunComfy will soon delete although it was paid for."""
    with suppress(ComfylineError):
        left = await services.ledger.unfinished()
        mine = [attempt for attempt in left if attempt.checked.job.pipeline == run.pipeline]
        for _, sentence in warnings(mine, services.now()):
            tell(Note(sentence))


async def _charges(
    run: Run, outcomes: Sequence[Outcome], services: Services
) -> Mapping[str, Sequence[Charge]]:
    """Return the run's own requests by job key, as the ledger has them, also those that failed."""
    charges: dict[str, list[Charge]] = defaultdict(list)
    try:
        attempts = await services.ledger.list(Selection(run_id=run.id))
    except ComfylineError as error:
        # What was made is stored; the report says less of its cost, and is written all the same.
        get_run_logger().warning("the ledger does not say what the run cost: %s", error)
        for outcome in outcomes:
            if outcome.request_id and not outcome.reused:
                charges[outcome.key].append(Charge(outcome.cost_usd, None))
        return charges
    for attempt in attempts:
        # What RunComfy refused has no id and was not charged.
        if attempt.request_id or attempt.state in {JobState.IN_DOUBT, JobState.SUBMITTING}:
            charge = Charge(attempt.cost_usd, attempt.checked.estimate_usd)
            charges[attempt.checked.key].append(charge)
    return charges


def ended(summary: RunSummary, token: CancelToken) -> State[RunSummary]:
    """Return Completed only when everything is there; otherwise Failed, with how many and why.

    A run that was told to stop ends as Cancelled, unless there was nothing left to stop. Where
    nothing failed and something goes on, the state is of the same type and called Unfinished.
    """
    message = headline(summary)
    if token.is_cancelled and summary.exit_code != 0:
        return Cancelled(message=f"{message}: {token.reason}", data=summary)
    if summary.exit_code == 0:
        return Completed(message=message, data=summary)
    failed = summary.failed or summary.cancelled or summary.in_doubt or not summary.unfinished
    return Failed(name="Failed" if failed else "Unfinished", message=message, data=summary)


def _markdown(summary: RunSummary, sheet: Sequence[str]) -> str:
    lines = [
        f"# {summary.pipeline}",
        f"{headline(summary)} · cost {' '.join(cost_in_words(summary))} · {span(summary.seconds)}",
        f"Gallery: `{summary.report}`",
        *(f"Contact sheet: `{uri}`" for uri in sheet),
    ]
    if summary.errors:
        lines += ["", "| item | stage | kind | what happened | request |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(error.item)} | {error.stage} | {error.kind} | {_cell(error.message)} "
            f"| {error.request_id or ''} |"
            for error in summary.errors[:_ROWS]
        ]
    if summary.outputs:
        lines += ["", "| item | step | output |", "|---|---|---|"]
        lines += [
            f"| {_cell(o.item)} | {_cell(o.step)} | `{_cell(o.uri)}` |"
            for o in summary.outputs[:_ROWS]
        ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _key(pipeline: str) -> str:
    """Write a name as Prefect takes it: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-") or "run"
