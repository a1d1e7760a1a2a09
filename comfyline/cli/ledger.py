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
from comfyline.errors import TryLater, UsageError
from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
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
        if await ledger.is_anybody_at_work():
            raise TryLater("A run is using this ledger", hint="Try again when it has ended.")
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
