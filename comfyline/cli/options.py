"""Arguments and options that several commands share, each written once."""

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from comfyline.errors import UsageError
from comfyline.report.format import count

PipelineFile = Annotated[Path, Parameter(help="The pipeline's YAML file.")]
JobKey = Annotated[
    str, Parameter(help="Job keys, or as many of their first characters as tell them apart.")
]
Profile = Annotated[
    str,
    Parameter(
        env_var="COMFYLINE_PROFILE",
        help="Where it runs: a name in configs/profiles/, or a file.",
    ),
]
Date = Annotated[
    str | None,
    Parameter(
        help="The day for which it runs, `run.date` in the YAML: 2026-11-01; or all days of a "
        "range, 2026-11-01..2026-11-07, each a run. Today by default.",
    ),
]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(name="--set", help="Override the YAML: limits.in_flight=4. May be repeated."),
]
Limit = Annotated[
    int | None, Parameter(help="At most this many items.", validator=validators.Number(gte=1))
]
Refresh = Annotated[bool, Parameter(help="Make again what is there; pays again.")]
Unchecked = Annotated[
    bool,
    Parameter(
        help="Submit to a model without a schema as well: its inputs are not checked, its price "
        "is unknown, and only @file and s3:// values count as media.",
    ),
]
MaxCost = Annotated[
    float | None,
    Parameter(help="Spend at most this many US dollars.", validator=validators.Number(gte=0)),
]
AllowUnknownCost = Annotated[
    bool, Parameter(help="Under a cost limit, also submit jobs whose price is unknown.")
]
Verify = Annotated[
    bool, Parameter(help="Reuse an output only when every byte of it is what was stored.")
]
Shards = Annotated[
    int | None,
    Parameter(
        help="Share the run among the workers of the deployment `pipeline`, in so many parts; "
        "1 for this process alone.",
        validator=validators.Number(gte=1),
    ),
]
Json = Annotated[
    bool, Parameter(name="--json", help="One JSON value on stdout, all else on stderr.")
]
RunId = Annotated[str | None, Parameter(help="Only what this run asked for.")]
PipelineName = Annotated[str | None, Parameter(help="Only jobs of this pipeline.")]

_MOST_DAYS = 366
_ONE_DAY = "Write a day as 2026-11-01, or a range of days as 2026-11-01..2026-11-07."


def days_of(written: str | None) -> tuple[date, ...]:
    """Return the days that `--date` names, in order, none where it names none.

    Raises `UsageError` for what is no day, and for a range that ends before it begins or is long.
    """
    if written is None:
        return ()
    first, *rest = map(_day, written.split(".."))
    last = rest[-1] if rest else first
    if len(rest) > 1:
        raise UsageError(f"--date {written} has more than a first and a last day", hint=_ONE_DAY)
    if last < first:
        raise UsageError(
            f"--date {written} ends before it begins", hint=f"Write {last}..{first} for these days."
        )
    number = (last - first).days + 1
    if number > _MOST_DAYS:
        raise UsageError(
            f"--date {written} is {count(number, 'day')}, and {_MOST_DAYS} at most are run at once",
            hint="Run it in several parts.",
        )
    return tuple(first + timedelta(days=passed) for passed in range(number))


def _day(written: str) -> date:
    try:
        day = date.fromisoformat(written)
    except ValueError:
        day = None
    # 20261101 and 2026-W44-7 are days as well, which no folder is called after.
    if day is None or day.isoformat() != written:
        raise UsageError(f"--date: {written!r} is not a day that there is", hint=_ONE_DAY)
    return day
