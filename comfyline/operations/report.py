"""Read the report of a period from the ledger, beside that of the period before."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from comfyline.errors import UsageError
from comfyline.ledger.queries import LedgerQueries
from comfyline.ledger.report import ALL, LABEL, Sums, read_failures, read_sums
from comfyline.pipeline.labels import LABEL_NAME
from comfyline.report.period import FailureKind, Figures, PeriodReport

_LONGEST = timedelta(days=3660)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
GROUPINGS = ("pipeline", "model", "day")
_BY = re.compile(f"{'|'.join(GROUPINGS)}|{re.escape(LABEL)}({LABEL_NAME.pattern})", re.ASCII)


async def read_report(
    ledger: LedgerQueries, since: datetime, until: datetime, by: str, profile: str
) -> PeriodReport:
    """Read what the ledger's account has in a period. Raises `UsageError` for a wrong question."""
    if not _BY.fullmatch(by):
        raise UsageError(
            f"Reports are not by {by!r}",
            hint=f"Use {', '.join(GROUPINGS)} or {LABEL}NAME, such as {LABEL}client.",
        )
    if not since < until:
        raise UsageError(
            "The report would be of no time at all", hint="Its end has to come after its beginning."
        )
    if since < _EARLIEST or until - since > _LONGEST:
        raise UsageError(
            f"No report covers {since.date()} to {until.date()}",
            hint="Ask for ten years at most, from 2000 on.",
        )
    earlier = since - (until - since)
    sums = await read_sums(ledger, since, until, by)
    before = await read_sums(ledger, earlier, since, GROUPINGS[0])
    days = await read_sums(ledger, since, until, "day", durations=False)
    failures = await read_failures(ledger, since, until)
    failed_before = await read_failures(ledger, earlier, since)
    groups = [_figures(sums, group, group) for group in sums if group != ALL]
    kinds = sorted({*failures, *failed_before}, key=lambda kind: (-failures.get(kind, 0), kind))
    return PeriodReport(
        profile=profile,
        since=since,
        until=until,
        by=by,
        total=_figures(sums, ALL, "all"),
        before=_figures(before, ALL, "all"),
        groups=tuple(sorted(groups, key=_by_name if by == "day" else _dearest_first)),
        days=tuple(_figures(days, day, day) for day in _days(since, until)),
        failures=tuple(
            FailureKind(kind=one, number=failures.get(one, 0), before=failed_before.get(one, 0))
            for one in kinds
        ),
    )


def _figures(sums: Sums, group: str | None, name: str | None) -> Figures:
    return Figures(**{**sums.get(group, {}), "group": name})


def _dearest_first(one: Figures) -> tuple[float, int, str]:
    return -one.cost_usd, -one.requests - one.not_paid_again, one.name


def _by_name(one: Figures) -> tuple[float, int, str]:
    return 0, 0, one.name


def _days(since: datetime, until: datetime) -> Iterator[str]:
    """Yield all days of a period, also those on which nothing was made."""
    day = since.astimezone(UTC).date()
    last = (until.astimezone(UTC) - timedelta(microseconds=1)).date()
    while day <= last:
        yield day.isoformat()
        day += timedelta(days=1)
