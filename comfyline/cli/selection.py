"""Which attempts a command means: by job key, run, pipeline or time; which of them press."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from comfyline.cli.console import errors, say
from comfyline.config.account import acting_for, command
from comfyline.config.duration import parse_duration
from comfyline.config.environment import home, profile_account, profile_ledger_url
from comfyline.errors import UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import elsewhere_in_words, short
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import Urgency, warnings
from comfyline.ledger.unrecorded import Unrecorded, unrecorded, unrecorded_in_words
from comfyline.redact import without_secrets
from comfyline.services import now, open_journal, open_ledger

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

_STYLES = {
    Urgency.SOON: "yellow",
    Urgency.PRESSING: "bold yellow",
    Urgency.LAST_HOURS: "bold red",
    Urgency.OVER: "bold white on red",
}


@contextmanager
def reading_ledger(profile: str, *, of_all: bool = False) -> Iterator[Ledger]:
    """Open the ledger of a profile, to be looked at only: where there is none, none is made.

    It shows what the profile's account has, with `of_all` what every account has.
    """
    account = profile_account(profile)
    shown = None if of_all else account
    ledger = open_ledger(profile_ledger_url(profile), shown, reading=True)
    try:
        with acting_for(account):
            yield ledger
    finally:
        ledger.close()


async def say_elsewhere(ledger: Ledger) -> None:
    """Say what a command left alone because it is other accounts', and how to reach it."""
    for line in elsewhere_in_words(await ledger.unfinished_elsewhere()):
        say(line)


async def say_unrecorded(profile: str, ledger: Ledger) -> list[Unrecorded]:
    """Say what was accepted from this machine and the ledger does not have; return it."""
    journal = open_journal(home(), profile_ledger_url(profile))
    found = await unrecorded(journal, ledger)
    for line in unrecorded_in_words(found):
        say(line)
    return found


def selection(
    run_id: str | None, pipeline: str | None, since: str | None, until: str | None
) -> Selection:
    """Return what the options of a command select. Raises `UsageError`."""
    return Selection(run_id=run_id, pipeline=pipeline, since=_moment(since), until=_moment(until))


def any_in_bucket(attempts: Iterable[Attempt]) -> bool:
    """Tell whether the storage is needed to look at what was stored; folders need none."""
    return any(output.uri.startswith("s3://") for one in attempts for output in one.outputs)


async def the_jobs(ledger: Ledger, prefixes: Sequence[str]) -> list[Attempt]:
    """Find the latest attempt of each job whose key begins so. Raises `UsageError` for mistakes."""
    found: dict[str, Attempt] = {}
    mistakes = []
    for prefix in prefixes:
        attempts = await ledger.list(Selection(key_prefix=prefix)) if prefix else []
        others = await ledger.list(Selection(key_prefix=prefix), of_all=True) if prefix else []
        keys = list(dict.fromkeys(attempt.checked.key for attempt in attempts))
        if len(keys) == 1:
            found |= await ledger.find(keys)
        elif keys:
            some = ", ".join(key[:16] for key in keys[:_NAMED])
            mistakes.append(f"{len(keys)} jobs have a key that begins with {prefix!r}: {some}")
        elif others:
            other = others[0]
            said = f"Job {short(other.checked.key)} was asked for at {other.account}, not here"
            mistakes.append(f"{said}: {other.command('…')} reaches it")
        else:
            mistakes.append(f"No job has a key that begins with {prefix!r}")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint=f"{command('jobs')} lists them.")
    return list(found.values())


def whose(attempt: Attempt) -> dict[str, str | None]:
    """Tell whose an attempt is, for a program; nulls where a version before accounts wrote it."""
    account = attempt.account
    return {
        "origin": account.origin if account else None,
        "account": account.name if account else None,
        "profile": account.profile if account else None,
    }


def warn(attempts: Iterable[Attempt], now: datetime) -> None:
    """Warn of those of some attempts that have little time left."""
    for urgency, text in warnings(attempts, now):
        line = Text("⚠ ", style=_STYLES[urgency])
        errors.print(line.append(without_secrets(text), style=_STYLES[urgency]))


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
