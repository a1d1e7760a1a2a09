"""audit: charges against jobs against files, every difference named."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.console import print_line, print_result, results, table
from comfyline.cli.options import Json, PipelineName, Profile, RunId, Since, Until
from comfyline.cli.selection import (
    any_in_bucket,
    attempt_record,
    print_elsewhere,
    reading_ledger,
    selection,
)
from comfyline.config.load import ONLY_RUNCOMFY, prepare, prepare_storage
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
            await print_elsewhere(ledger)
            now = (await ledger.clock())()
            asked_again, alarming = repeats(await with_history(attempts, ledger))
        in_bucket = any_in_bucket(attempts)
        async with _opened(profile, offline=offline, in_bucket=in_bucket) as (places, client):
            seen = await gather(attempts, places, client, now)
            balance = await client.balance() if client else None
        found = [*differences(seen), *alarming]
        if json_output:
            print_result(json.dumps(_as_json(seen, found, asked_again, balance)))
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
        storage = await prepare_storage(profile, print_line) if in_bucket else NO_STORAGE
        async with open_places(storage) as places:
            yield places, None
        return
    only = SERVICES if in_bucket else ONLY_RUNCOMFY
    settings = await prepare(profile, print_line, only=only)
    async with open_services(settings, reading=True) as services:
        yield services.places, services.client


def _print(
    seen: Sequence[Seen],
    found: Sequence[Difference],
    asked_again: Sequence[Difference],
    balance: float | None,
) -> None:
    if found or asked_again:
        shown = table("job", "item", "what", "difference", wrapping={"difference"})
        for one in found:
            shown.add_row(*_row(one), style="red" if one.kind == "charged-twice" else "")
        for one in asked_again:
            shown.add_row(*_row(one), style="dim")
        results.print(shown)
        results.print()
    sums = Table(box=None, pad_edge=False, show_header=False)
    for name, value in in_words(totals(seen)):
        sums.add_row(name, value)
    if balance is not None:
        sums.add_row("balance", f"{usd(balance)} now")
    results.print(sums)
    print_line(f"{count(len(found), 'difference') if found else 'No differences'}.")


def _row(one: Difference) -> tuple[str, ...]:
    attempt = one.attempt
    message = f"{one.message}: {one.uri}" if one.uri else one.message
    label = f"{attempt.checked.job.pipeline} · {attempt.checked.job.label}"
    return short(attempt.checked.key), label, one.kind, message


def _as_json(
    seen: Sequence[Seen],
    found: Sequence[Difference],
    asked_again: Sequence[Difference],
    balance: float | None,
) -> dict[str, Any]:
    sums = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in asdict(totals(seen)).items()
    }
    if not sums["asked"]:
        sums["runcomfy_usd"] = None
    return {
        **sums,
        "balance_usd": balance,
        "differences": [_difference_record(one) for one in found],
        "repeats": [_difference_record(one) for one in asked_again],
    }


def _difference_record(one: Difference) -> dict[str, Any]:
    return attempt_record(one.attempt) | {
        "kind": one.kind,
        "message": one.message,
        "uri": one.uri,
    }
