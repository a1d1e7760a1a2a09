"""audit: charges against jobs against files, every difference named."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from comfyline.cli.console import answer, results, say
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import (
    PipelineName,
    RunId,
    Since,
    Until,
    any_in_bucket,
    reading_ledger,
    say_elsewhere,
    selection,
)
from comfyline.config.environment import ONLY_RUNCOMFY, prepare, prepare_storage
from comfyline.config.settings import NO_STORAGE
from comfyline.ledger.block_reasons import short
from comfyline.operations.audit import (
    Difference,
    Seen,
    differences,
    gather,
    in_words,
    repeats,
    totals,
    with_history,
)
from comfyline.report.format import count, usd
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.services import open_places, open_services
from comfyline.stack.services import SERVICES
from comfyline.storage.places import Places


def audit(
    *,
    run: RunId = None,
    pipeline: PipelineName = None,
    since: Since = None,
    until: Until = None,
    offline: Annotated[
        bool, Parameter(negative="", help="Do not ask RunComfy what it charged.")
    ] = False,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Compare charges, jobs and files, and name every difference; changes nothing.

    Example: comfyline audit --pipeline office-scenes --since 7d
    """
    selected = selection(run, pipeline, since, until)

    async def work() -> int:
        with reading_ledger(profile) as ledger:
            attempts = (await ledger.list(selected))[::-1]
            await say_elsewhere(ledger)
            now = (await ledger.clock())()
            asked_again, alarming = repeats(await with_history(attempts, ledger))
        in_bucket = any_in_bucket(attempts)
        async with _opened(profile, offline=offline, in_bucket=in_bucket) as (places, client):
            seen = await gather(attempts, places, client, now)
            balance = await client.balance() if client else None
        found = [*differences(seen), *alarming]
        if json_output:
            answer(json.dumps(_as_json(seen, found, asked_again, balance)))
        else:
            _print(seen, found, asked_again, balance)
        return 1 if found else 0

    return asyncio.run(work())


@asynccontextmanager
async def _opened(
    profile: str, *, offline: bool, in_bucket: bool
) -> AsyncIterator[tuple[Places, RuncomfyClient | None]]:
    """Open what an audit reads; offline it needs neither RunComfy nor a token."""
    if offline:
        storage = await prepare_storage(profile, say) if in_bucket else NO_STORAGE
        async with open_places(storage) as places:
            yield places, None
        return
    only = SERVICES if in_bucket else ONLY_RUNCOMFY
    settings = await prepare(profile, say, only=only)
    async with open_services(settings, reading=True) as services:
        yield services.places, services.client


def _print(
    seen: Sequence[Seen],
    found: Sequence[Difference],
    asked_again: Sequence[Difference],
    balance: float | None,
) -> None:
    if found or asked_again:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("job", "item", "what", "difference"):
            table.add_column(column, no_wrap=column != "difference", overflow="fold")
        for one in found:
            table.add_row(*_row(one), style="red" if one.kind == "charged-twice" else "")
        for one in asked_again:
            table.add_row(*_row(one), style="dim")
        results.print(table)
        results.print()
    sums = Table(box=None, pad_edge=False, show_header=False)
    for name, value in in_words(totals(seen)):
        sums.add_row(name, value)
    if balance is not None:
        sums.add_row("balance", f"{usd(balance)} now")
    results.print(sums)
    verdict = count(len(found), "difference") if found else "Nothing differs"
    say(f"{verdict}.")


def _row(one: Difference) -> tuple[str | Text, ...]:
    attempt = one.attempt
    message = f"{one.message}: {one.uri}" if one.uri else one.message
    label = f"{attempt.checked.job.pipeline} · {attempt.checked.job.label}"
    # As text: a name with brackets is no markup.
    return short(attempt.checked.key), Text(label), one.kind, Text(message)


def _as_json(
    seen: Sequence[Seen],
    found: Sequence[Difference],
    asked_again: Sequence[Difference],
    balance: float | None,
) -> dict[str, Any]:
    sums = asdict(totals(seen))
    if not sums["asked"]:
        sums["runcomfy_usd"] = None
    return {
        **{
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in sums.items()
        },
        "balance_usd": balance,
        "differences": [_described(one) for one in found],
        "repeats": [_described(one) for one in asked_again],
    }


def _described(one: Difference) -> dict[str, Any]:
    attempt = one.attempt
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        "pipeline": attempt.checked.job.pipeline,
        "item": attempt.checked.job.item,
        "step": attempt.checked.job.step,
        "request_id": attempt.request_id,
        "kind": one.kind,
        "message": one.message,
        "uri": one.uri,
    }
