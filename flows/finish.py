"""The end of a run: summary and gallery on disk, an artifact and a sentence in the Prefect UI."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import httpx
from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Completed, Failed

from comfyline.errors import ComfylineError, TokenRejected
from comfyline.files import appearing_whole
from comfyline.job import JobState
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import warnings
from comfyline.ledger.savings import savings_of
from comfyline.progress import Note, RunReported, tell
from comfyline.report.contact_sheet import store_contact_sheet
from comfyline.report.format import span
from comfyline.report.gallery import write_gallery
from comfyline.report.index import write_index
from comfyline.report.summary import Charge, RunSummary, cost_in_words, headline, summarise
from comfyline.run import CancelToken, Outcome, Provenance, Run
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
    indexed = False
    made: Mapping[str, Provenance] = {}
    with _optional("No run index"):
        made = await services.ledger.provenance([*{one.key: None for one in outcomes}])
        await asyncio.to_thread(write_index, index, outcomes, run.id, made)
        indexed = True
    if not run.collects_only:
        with _optional("What the run did not pay again is not recorded"):
            await services.ledger.saved(run.id, savings_of(outcomes, made, charges))
    seconds = time.monotonic() - began
    summary = summarise(
        run, outcomes, seconds, str(gallery), charges, str(index) if indexed else None
    )

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_gallery(gallery, summary, started, outcomes, services.thumbnails, charges)
        with appearing_whole(folder / "summary.json") as part:
            part.write_text(summary.to_json(), encoding="utf-8")

    await asyncio.to_thread(write)
    with _optional("Cannot tell what RunComfy will soon delete"):
        left = await services.ledger.unfinished()
        mine = [attempt for attempt in left if attempt.checked.job.pipeline == run.pipeline]
        for _, sentence in warnings(mine, services.now()):
            tell(Note(sentence))
    sheet: Sequence[str] = ()
    if run.contact_sheet is not None:
        with _optional("No contact sheet"):
            sheet = await store_contact_sheet(
                run.contact_sheet, outcomes, services.thumbnails, services.places
            )
            for uri in sheet:
                tell(Note(f"Contact sheet: {uri}"))
    tell(RunReported(str(folder / "summary.json")))
    try:
        await acreate_markdown_artifact(
            _markdown(summary, sheet), key=_key(run.pipeline), description=headline(summary)
        )
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("no artifact: %s", error)
    return ended(summary, run.cancel_token)


@contextmanager
def _optional(without: str) -> Iterator[None]:
    """Go on after an error: what was made is stored, and the next run can tell of it again."""
    try:
        yield
    except (ComfylineError, OSError) as error:
        tell(Note(f"{without}: {error}"))


async def _charges(
    run: Run, outcomes: Sequence[Outcome], services: Services
) -> Mapping[str, Sequence[Charge]]:
    """Return the run's own requests by job key, as the ledger has them, also those that failed."""
    charges: dict[str, list[Charge]] = defaultdict(list)
    with _optional("The ledger does not say what the run cost"):
        for attempt in await services.ledger.list(Selection(run_id=run.id)):
            # What RunComfy refused has no id and was not charged.
            if attempt.request_id or attempt.state in {JobState.IN_DOUBT, JobState.SUBMITTING}:
                estimate, reserved = attempt.checked.estimate_usd, attempt.reserved_usd
                charge = Charge(attempt.cost_usd, estimate, reserved)
                charges[attempt.checked.key].append(charge)
        return charges
    for outcome in outcomes:
        if outcome.request_id and not outcome.reused:
            charges[outcome.key].append(Charge(outcome.cost_usd, None))
    return charges


def ended(summary: RunSummary, token: CancelToken) -> State[RunSummary]:
    """Return Completed only when everything is there; otherwise Failed, with how many and why.

    A run that was told to stop ends as Cancelled, unless there was nothing left to stop. Where
    nothing failed and something goes on, the state is of the same type and called Unfinished.
    """
    message = headline(summary)
    if token.is_cancelled and summary.exit_code != 0:
        message += f": {token.reason}"
        # Where others go on, it is not cancelled: Prefect would cancel them with it.
        if not token.hands_over:
            return Cancelled(message=message, data=summary)
    if summary.exit_code == 0:
        return Completed(message=message, data=summary)
    failed = summary.failed or summary.cancelled or summary.in_doubt or not summary.unfinished
    # What goes on needs nobody, unless its token has to be set.
    failed = failed or any(error.kind == TokenRejected.kind for error in summary.errors)
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
