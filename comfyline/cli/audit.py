"""audit: charges against jobs against files, every difference named."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.console import print_json, print_line, results, table
from comfyline.cli.options import Json, PipelineName, Profile, RunId
from comfyline.cli.selection import (
    attempt_record,
    print_elsewhere,
    reading_ledger,
    storage_of,
)
from comfyline.config.duration import parse_moment
from comfyline.config.load import ONLY_RUNCOMFY, prepare
from comfyline.ledger.block_reasons import short
from comfyline.ledger.queries import Selection
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
from comfyline.services import now as wall_clock
from comfyline.services import open_places, open_services
from comfyline.stack.services import SERVICES
from comfyline.storage.places import Places


async def audit(
    *,
    run: RunId = None,
    pipeline: PipelineName = None,
    since: Annotated[
        str | None,
        Parameter(help="Only what was last changed since then: 7d, 12h, or a date or time in UTC."),
    ] = None,
    until: Annotated[str | None, Parameter(help="Only what was last changed before then.")] = None,
    offline: Annotated[bool, Parameter(help="Do not ask RunComfy what it charged.")] = False,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Compare charges, jobs and files, and name every difference; changes nothing.

    Example: comfyline audit --pipeline office-scenes --since 7d
    """
    at = wall_clock()
    selected = Selection(
        run_id=run,
        pipeline=pipeline,
        since=parse_moment(since, at) if since else None,
        until=parse_moment(until, at) if until else None,
    )
    with reading_ledger(profile) as ledger:
        attempts = (await ledger.list(selected))[::-1]
        await print_elsewhere(ledger)
        now = (await ledger.clock())()
        asked_again, alarming = repeats(await with_history(attempts, ledger))
    uris = [output.uri for one in attempts for output in one.outputs]
    async with _opened(profile, uris, offline=offline) as (places, client):
        seen = await gather(attempts, places, client, now)
        balance = await client.balance() if client else None
    found = [*differences(seen), *alarming]
    if json_output:
        print_json(
            _sums(seen)
            | {
                "balance_usd": balance,
                "differences": [_difference_record(one) for one in found],
                "repeats": [_difference_record(one) for one in asked_again],
            }
        )
    else:
        _print(seen, found, asked_again, balance)
    return 1 if found else 0


@asynccontextmanager
async def _opened(
    profile: str, uris: Sequence[str], *, offline: bool
) -> AsyncIterator[tuple[Places, RuncomfyClient | None]]:
    """Open what an audit reads; offline it needs neither RunComfy nor a token."""
    if offline:
        async with open_places(await storage_of(profile, uris)) as places:
            yield places, None
        return
    in_bucket = any(uri.startswith("s3://") for uri in uris)
    settings = await prepare(profile, print_line, only=SERVICES if in_bucket else ONLY_RUNCOMFY)
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


def _sums(seen: Sequence[Seen]) -> dict[str, Any]:
    sums = asdict(totals(seen))
    for name, amount in sums.items():
        if isinstance(amount, float):
            sums[name] = round(amount, 6)
    if not sums["asked"]:
        sums["runcomfy_usd"] = None
    return sums


def _difference_record(one: Difference) -> dict[str, Any]:
    return attempt_record(one.attempt) | {"kind": one.kind, "message": one.message, "uri": one.uri}
