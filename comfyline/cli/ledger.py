"""ledger: the record of what was paid for, removed only after what is lost with it was named."""

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from sqlalchemy import make_url

from comfyline.cli.console import print_line
from comfyline.cli.options import Profile
from comfyline.cli.selection import reading_ledger
from comfyline.config.load import home, read_profile
from comfyline.config.profile import database_url
from comfyline.errors import TryLater, UsageError
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.journal import place_of
from comfyline.ledger.move import move as move_ledger
from comfyline.ledger.unrecorded import unrecorded
from comfyline.report.format import count, usd
from comfyline.services import open_journal, work_folder

app = App(name="ledger", help="The record of what was paid for.")

_UNSURE = {JobState.SUBMITTING, JobState.IN_DOUBT}


@app.command
async def remove(
    *,
    yes: Annotated[bool, Parameter(help="Remove it without asking.")] = False,
    profile: Profile = "sandbox",
) -> None:
    """Remove a ledger for good, after naming what would be lost and asking for a yes.

    The journal of accepted requests goes with it, and so do fetched files that are not stored.
    Stored outputs stay, with their sidecars.

    Example: comfyline ledger remove
    """
    url = make_url(read_profile(profile).ledger_url())
    if url.get_backend_name() != "sqlite" or not url.database:
        raise UsageError(
            "The ledger of this profile is in a database server, which others may use",
            hint="Its administrator can remove it there.",
        )
    file = Path(url.database)
    journal = open_journal(home(), f"sqlite:///{file}")
    with reading_ledger(profile, of_all=True) as ledger:
        if workers := await ledger.at_work():
            raise TryLater(
                f"A run is using this ledger: {', '.join(workers)} (host:process)",
                hint="Try again when it has ended.",
            )
        attempts, unfinished = await ledger.list(), await ledger.unfinished()
        ids = await unrecorded(journal, ledger)
    work, sizes = work_folder(home()), _sizes(work_folder(home()))
    doubts = sum(one.state in _UNSURE for one in attempts)
    print_line(f"{file}, of all profiles that use it. This would be lost with it:")
    for line in (
        *_accepted(attempts),
        f"{count(len(unfinished), 'job')} paid for and not stored: nothing collects them",
        f"{count(doubts, 'job')} in doubt",
        f"{count(len(ids), 'request id')} not recorded yet ({journal.path})",
        f"{count(len(sizes), 'fetched file')} not stored, {sum(sizes) / 1e6:,.1f} MB ({work})",
    ):
        print_line(f"  {line}")
    if not (yes or _agreed()):
        raise UsageError("Nothing was removed", hint="Use --yes, or answer yes on a terminal.")
    # Kept, the journal would bring all of it back into the next ledger.
    beside = (file.with_name(f"{file.name}{more}") for more in ("-wal", "-shm"))
    _delete(file, *beside, journal.path, work)
    print_line(f"{file}: removed.")


@app.command
async def move(
    url: Annotated[
        str,
        Parameter(
            help="SQLAlchemy URL of an empty database; - reads it.", allow_leading_hyphen=True
        ),
    ],
    *,
    profile: Profile = "sandbox",
) -> None:
    """Move the ledger to another database, from SQLite to PostgreSQL or back.

    All of it arrives or nothing does. The old one is closed then: who opens it is told where it
    went. Other users can read a command line: leave the password out of the URL, then ~/.pgpass or
    PGPASSWORD is read, or write - and hand the URL in on stdin.

    Example: comfyline ledger move postgresql://comfyline@db.example.com/comfyline
    """
    if url == "-":
        url = sys.stdin.readline().strip()
    source = read_profile(profile).ledger_url()
    here, there = _places(source, url)
    print_line(f"{here} → {there}")
    rows = await move_ledger(source, url)
    copied = ", ".join(f"{name} {number:,}" for name, number in rows.items() if number)
    print_line(f"Copied and compared: {copied}.")
    print_line(f"{here} is closed now, and says where it went. Keep it until {there} is backed up.")
    print_line(
        "Next, wherever comfyline runs: set COMFYLINE_LEDGER_URL, or `ledger` in the profile, to "
        "the new URL."
    )


def _places(source: str, target: str) -> tuple[str, str]:
    """Return where a ledger is moved from and to. Raises `UsageError` for what makes no sense."""
    try:
        here, there = place_of(source), place_of(database_url(target))
    except ValueError as error:
        raise UsageError(f"The new ledger's URL {error}") from None
    if not there:
        raise UsageError("The new ledger would be in memory", hint="Name a file or a server.")
    if here == there:
        raise UsageError(
            f"The ledger of this profile is at {here} already",
            hint="COMFYLINE_LEDGER_URL, or `ledger` in the profile, says where it is moved from.",
        )
    if here.startswith("/") and not Path(here).exists():
        raise UsageError(f"There is no ledger at {here}", hint="`--profile` says whose is meant.")
    return here, there


def _accepted(attempts: Sequence[Attempt]) -> list[str]:
    """Say for each account how many requests were accepted, and what they cost."""
    accepted: dict[str, list[Attempt]] = {}
    for one in attempts:
        if one.request_id:
            accepted.setdefault(str(one.account or "an unknown account"), []).append(one)
    lines = []
    for where, paid in sorted(accepted.items()):
        known = [one.cost_usd for one in paid if one.cost_usd is not None]
        unknown = len(paid) - len(known)
        cost = usd(sum(known)) + (f" and {count(unknown, 'cost')} not known" if unknown else "")
        lines.append(
            f"{count(len(paid), 'request')} accepted at {where}, {cost}: asking for the same pays "
            "again"
        )
    return lines


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _delete(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    print_line("Type yes to remove all of this for good:")
    # asyncio keeps the first Ctrl-C until a coroutine waits; nothing here does, before all is gone.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return sys.stdin.readline().strip() == "yes"
