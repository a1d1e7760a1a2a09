"""ledger: the record of what was paid for, removed only after what is lost with it was named."""

import asyncio
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from comfyline.ledger.journal import Line
from comfyline.ledger.unrecorded import unrecorded
from comfyline.report.format import count, usd
from comfyline.services import open_journal, work_folder

app = App(name="ledger", help="The record of what was paid for.")

_UNSURE = {JobState.SUBMITTING, JobState.IN_DOUBT}


@dataclass(frozen=True, slots=True)
class _Lost:
    """What would be gone with a ledger."""

    file: Path
    attempts: Sequence[Attempt]
    unfinished: Sequence[Attempt]
    unrecorded: Sequence[Line]
    fetched: Sequence[Path]


@app.command
def remove(
    *,
    yes: Annotated[
        bool, Parameter(name="--yes", negative="", help="Remove it without asking.")
    ] = False,
    profile: Profile = "sandbox",
) -> int:
    """Remove a ledger for good, after naming what would be lost and asking for a yes.

    The journal of accepted requests goes with it, and so do request ids that the ledger could not
    take yet and fetched files that are not stored. Stored outputs stay, with their sidecars.

    Example: comfyline ledger remove
    """
    lost = asyncio.run(_look(profile, _file(profile)))
    for line in _in_words(lost):
        print_line(line)
    if not (yes or _agreed()):
        raise UsageError("Nothing was removed", hint="Use --yes, or answer yes on a terminal.")
    file = lost.file
    for path in (file, *(file.with_name(f"{file.name}{more}") for more in ("-wal", "-shm"))):
        path.unlink(missing_ok=True)
    # Kept, the journal would bring all of it back into the next ledger.
    open_journal(home(), "sqlite://").path.unlink(missing_ok=True)
    shutil.rmtree(work_folder(home()), ignore_errors=True)
    print_line(f"{file}: removed.")
    return 0


def _file(profile: str) -> Path:
    url = make_url(read_profile(profile).ledger_url())
    if url.get_backend_name() != "sqlite" or not url.database:
        raise UsageError(
            "The ledger of this profile is in a database server, which others may use",
            hint="Its administrator can remove it there.",
        )
    return Path(url.database)


async def _look(profile: str, file: Path) -> _Lost:
    with reading_ledger(profile, of_all=True) as ledger:
        if await ledger.is_anybody_at_work():
            raise TryLater("A run is using this ledger", hint="Try again when it has ended.")
        return _Lost(
            file,
            await ledger.list(),
            await ledger.unfinished(),
            await unrecorded(open_journal(home(), f"sqlite:///{file}"), ledger),
            sorted(path for path in work_folder(home()).rglob("*") if path.is_file()),
        )


def _in_words(lost: _Lost) -> list[str]:
    accepted: dict[str, list[Attempt]] = {}
    for one in lost.attempts:
        if one.request_id:
            accepted.setdefault(str(one.account or "an unknown account"), []).append(one)
    doubts = sum(one.state in _UNSURE for one in lost.attempts)
    size = sum(path.stat().st_size for path in lost.fetched) / 1e6
    journal, fetched = open_journal(home(), "sqlite://").path, work_folder(home())
    return [
        f"{lost.file}, of all profiles that use it. This would be lost with it:",
        *(
            f"  {count(len(some), 'request')} accepted at {where}, {_cost(some)}: asking for the "
            "same pays again"
            for where, some in sorted(accepted.items())
        ),
        f"  {count(len(lost.unfinished), 'job')} paid for and not stored: nothing collects them",
        f"  {count(doubts, 'job')} in doubt",
        f"  {count(len(lost.unrecorded), 'request id')} not recorded yet ({journal})",
        f"  {count(len(lost.fetched), 'fetched file')} not stored, {size:,.1f} MB ({fetched})",
    ]


def _cost(paid: Sequence[Attempt]) -> str:
    known = [one.cost_usd for one in paid if one.cost_usd is not None]
    unknown = len(paid) - len(known)
    return usd(sum(known)) + (f" and {count(unknown, 'cost')} not known" if unknown else "")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    print_line("Type yes to remove all of this for good:")
    return sys.stdin.readline().strip() == "yes"
