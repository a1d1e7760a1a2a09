"""report: what was made, what it cost, what was not paid again, how long it took."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_line, print_result, results, table
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import reading_ledger
from comfyline.config.duration import parse_moment
from comfyline.errors import UsageError
from comfyline.files import appearing_whole, why_not
from comfyline.operations.report import read_report
from comfyline.report.period import (
    GROUP_COLUMNS,
    PeriodReport,
    comparison,
    csv_text,
    group_rows,
    headline,
)
from comfyline.report.period_page import period_page

_FITTING = ((110, len(GROUP_COLUMNS)), (80, 5), (0, 3))
"""From how many characters on a line has room for how many columns of figures."""


async def report(
    *,
    since: Annotated[
        str, Parameter(help="From when on: 7d, 12h, or a date or time in UTC.")
    ] = "7d",
    until: Annotated[str | None, Parameter(help="Until when; now by default.")] = None,
    by: Annotated[str, Parameter(help="pipeline, model, day, or label.NAME.")] = "pipeline",
    csv_output: Annotated[
        bool, Parameter(name="--csv", help="A line for each group on stdout, for spreadsheets.")
    ] = False,
    html: Annotated[Path | None, Parameter(help="Write a page with plots to this file.")] = None,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> None:
    """Tell what was made, for how much, and what was not paid again.

    Example: comfyline report --since 30d --by label.client --html report.html
    """
    if csv_output and json_output:
        raise UsageError("--csv and --json exclude each other", hint="Ask for one at a time.")
    if html is not None and not html.name:
        raise UsageError(f"--html {html} names no file", hint="Write --html report.html.")
    with reading_ledger(profile) as ledger:
        now = (await ledger.clock())()
        end = parse_moment(until, now) if until else now
        found = await read_report(ledger, parse_moment(since, now), end, by, profile)
    if html is not None:
        _write(html, period_page(found))
        print_line(f"Report: {html}")
    if json_output:
        print_result(found.to_json())
    elif csv_output:
        print_result(csv_text(found).removesuffix("\n"))
    else:
        _print(found)


def _write(target: Path, page: str) -> None:
    try:
        with appearing_whole(target) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {why_not(error)}", hint="Give --html another path."
        ) from None


def _print(found: PeriodReport) -> None:
    sums = table("", "now", "before", wrapping={"now", "before"})
    for name, now, before in comparison(found):
        sums.add_row(name, now, before)
    results.print(sums)
    if found.groups:
        most = next(number for width, number in _FITTING if results.width >= width)
        fitting = GROUP_COLUMNS[:most]
        groups = table(found.by, *fitting, wrapping={found.by, "cost", "worth"})
        for name, *told in group_rows(found):
            groups.add_row(name, *told[: len(fitting)])
        results.print()
        results.print(groups)
    if found.failures:
        failures = table("failure", "now", "before")
        for one in found.failures:
            failures.add_row(one.kind, f"{one.number:,}", f"{one.before:,}")
        results.print()
        results.print(failures)
    print_line(f"{found.title}: {headline(found)}.")
