"""Which attempts a command means, how they are named for programs, and which are urgent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.text import Text

from comfyline.cli.console import errors, print_line
from comfyline.config.account import acting_for, command
from comfyline.config.load import home, read_profile, start_services
from comfyline.config.settings import NO_STORAGE, StorageSettings
from comfyline.errors import UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import elsewhere_in_words, short
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.retention import Urgency, warnings
from comfyline.ledger.unrecorded import unrecorded, unrecorded_in_words
from comfyline.redact import without_secrets
from comfyline.services import open_journal, open_ledger
from comfyline.stack.stack import StackAddresses

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
    loaded = read_profile(profile)
    shown = None if of_all else loaded.account
    ledger = open_ledger(loaded.ledger_url(), shown, reading=True)
    try:
        with acting_for(loaded.account):
            yield ledger
    finally:
        ledger.close()


async def print_elsewhere(ledger: Ledger) -> None:
    """Print what a command left untouched because it is other accounts', and how to reach it."""
    for line in elsewhere_in_words(await ledger.unfinished_elsewhere()):
        print_line(line)


async def print_unrecorded(profile: str, ledger: Ledger) -> None:
    """Print what was accepted from this machine and the ledger does not have."""
    journal = open_journal(home(), read_profile(profile).ledger_url())
    for line in unrecorded_in_words(await unrecorded(journal, ledger)):
        print_line(line)


async def storage_of(profile: str, uris: Iterable[str]) -> StorageSettings:
    """Prepare the storage of the profile where anything lies in a bucket; folders need none.

    It is started where it is the local one, and no token is needed.
    """
    if not any(uri.startswith("s3://") for uri in uris):
        return NO_STORAGE
    loaded, found = read_profile(profile), StackAddresses()
    if "storage" in loaded.local_services:
        found = await start_services(("storage",), print_line)
    return loaded.storage(found)


async def find_jobs(ledger: Ledger, prefixes: Sequence[str]) -> list[Attempt]:
    """Find the latest attempt of each job whose key begins so. Raises `UsageError` for mistakes."""
    found: dict[str, Attempt] = {}
    mistakes = []
    for prefix in prefixes:
        attempts = await ledger.list(Selection(key_prefix=prefix)) if prefix else []
        keys = list(dict.fromkeys(attempt.checked.key for attempt in attempts))
        if len(keys) == 1:
            found |= await ledger.find(keys)
        elif keys:
            some = ", ".join(key[:16] for key in keys[:_NAMED])
            mistakes.append(f"{len(keys)} job keys begin with {prefix!r}: {some}")
        elif prefix and (others := await ledger.list(Selection(key_prefix=prefix), of_all=True)):
            other = others[0]
            mistakes.append(
                f"Job {short(other.checked.key)} belongs to {other.account}: use "
                f"{other.command('…')}"
            )
        else:
            mistakes.append(f"No job key begins with {prefix!r}")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint=f"{command('jobs')} lists them.")
    return list(found.values())


def attempt_record(attempt: Attempt) -> dict[str, Any]:
    """Name an attempt for a program; without an account a version before accounts wrote it."""
    job, account = attempt.checked.job, attempt.account
    return {
        "job": attempt.checked.key,
        "attempt": attempt.number,
        "origin": account.origin if account else None,
        "account": account.name if account else None,
        "profile": account.profile if account else None,
        "run_id": attempt.run_id,
        "pipeline": job.pipeline,
        "item": job.item,
        "step": job.step,
        "model": job.model_id,
        "labels": dict(job.labels),
        "state": attempt.state.value,
        "request_id": attempt.request_id,
    }


def print_warnings(attempts: Iterable[Attempt], now: datetime) -> None:
    """Warn of those of some attempts that RunComfy will soon delete."""
    for urgency, text in warnings(attempts, now):
        errors.print(Text(f"⚠ {without_secrets(text)}", _STYLES[urgency]))
