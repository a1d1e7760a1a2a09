"""Which attempts of the ledger a command means: by job key, run, pipeline or time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter

from comfyline.duration import parse_duration
from comfyline.environment import profile_ledger_url
from comfyline.errors import UsageError
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.reading import Selection
from comfyline.ledger.records import Attempt
from comfyline.services import now, open_ledger

RunId = Annotated[str | None, Parameter(name="--run", help="Only what this run asked for.")]
PipelineName = Annotated[
    str | None, Parameter(name="--pipeline", help="Only jobs of this pipeline.")
]
Since = Annotated[
    str | None,
    Parameter(
        name="--since",
        help="Only what was last changed since then: 7d, 12h, or a date or time in UTC.",
    ),
]
Until = Annotated[
    str | None, Parameter(name="--until", help="Only what was last changed before then.")
]

_NAMED = 5
"""How many of the jobs that a beginning fits are named."""


@contextmanager
def reading_ledger(profile: str) -> Iterator[Ledger]:
    """The ledger of a profile, to be looked at only: where there is none, none is made."""
    ledger = open_ledger(profile_ledger_url(profile), reading=True)
    try:
        yield ledger
    finally:
        ledger.close()


def selection(
    run_id: str | None, pipeline: str | None, since: str | None, until: str | None
) -> Selection:
    """What the options of a command select. Raises `UsageError`."""
    return Selection(run_id=run_id, pipeline=pipeline, since=_moment(since), until=_moment(until))


async def the_jobs(ledger: Ledger, prefixes: Sequence[str]) -> list[Attempt]:
    """The latest attempt of each job whose key begins so. Raises `UsageError` for all mistakes."""
    found: dict[str, Attempt] = {}
    mistakes = []
    for prefix in prefixes:
        attempts = await ledger.list(Selection(key_prefix=prefix)) if prefix else []
        keys = list(dict.fromkeys(attempt.checked.key for attempt in attempts))
        if len(keys) == 1:
            found |= await ledger.find(keys)
        elif keys:
            some = ", ".join(key[:16] for key in keys[:_NAMED])
            mistakes.append(f"{len(keys)} jobs have a key that begins with {prefix!r}: {some}")
        else:
            mistakes.append(f"No job has a key that begins with {prefix!r}")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint="`comfyline jobs` lists them.")
    return list(found.values())


def _moment(written: str | None) -> datetime | None:
    if written is None:
        return None
    try:
        return now() - timedelta(seconds=parse_duration(written))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise UsageError(
            f"{written!r} is neither a length of time nor a date",
            hint="Write 7d, 12h, 2026-11-22 or 2026-11-22T18:00 (UTC).",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
