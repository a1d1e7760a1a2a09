"""The end of a run: summary and gallery on disk, an artifact and a sentence in the Prefect UI."""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import datetime

import httpx
from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed

from comfyline.progress import RunReported, tell
from comfyline.report.atomic import appearing_whole
from comfyline.report.gallery import write_gallery
from comfyline.report.outcomes import cards, header, summarise
from comfyline.report.summary import RunSummary, headline
from comfyline.run import Outcome, Run
from comfyline.services import Services

_ROWS = 200
"""Outputs listed in the artifact: it lies in Prefect's database, the gallery holds all."""


async def report(
    outcomes: Sequence[Outcome], run: Run, services: Services, started: datetime, began: float
) -> State[RunSummary]:
    """Writes everything down and returns the state in which the flow run ends.

    `began` is the monotonic time at which the run began.
    """
    folder = services.settings.home / "runs" / run.id
    gallery = folder / "gallery.html"
    summary = summarise(run, outcomes, time.monotonic() - began, str(gallery))

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_gallery(gallery, header(summary, started), cards(outcomes, services.thumbnails))
        with appearing_whole(folder / "summary.json") as part:
            part.write_text(summary.to_json(), encoding="utf-8")

    await asyncio.to_thread(write)
    tell(RunReported(str(folder / "summary.json")))
    try:
        await acreate_markdown_artifact(
            _markdown(summary), key=_key(run.pipeline), description=headline(summary)
        )
    except (httpx.HTTPError, PrefectException) as error:
        # What was made is stored and written down; only a page about it is missing.
        get_run_logger().warning("no artifact: %s", error)
    return ended(summary)


def ended(summary: RunSummary) -> State[RunSummary]:
    """Completed only when everything is there; otherwise Failed, with how many and why."""
    message = headline(summary)
    if summary.exit_code == 0:
        return Completed(message=message, data=summary)
    return Failed(message=message, data=summary)


def _markdown(summary: RunSummary) -> str:
    lines = [
        f"# {summary.pipeline}",
        f"{headline(summary)} · ${summary.cost_usd:.2f} · {summary.seconds:.1f} s",
        f"Gallery: `{summary.report}`",
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
    """Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-") or "run"
