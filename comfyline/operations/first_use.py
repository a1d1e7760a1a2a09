"""The first use of an empty ledger where others were used before, said before anything is spent."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from comfyline.config.account import LOCAL_SANDBOX
from comfyline.config.environment import home
from comfyline.ledger.journal import Journal
from comfyline.services import Services

_NAMED = 3
_PAID_FOR = f"""
    SELECT count(*) FROM attempts
    WHERE request_id IS NOT NULL AND origin IS NOT NULL AND origin != '{LOCAL_SANDBOX}'
"""  # noqa: S608  # a constant of our own


async def first_use(services: Services) -> str:
    """Return a warning if the ledger is empty and another seems to be in use, else ""."""
    account = services.settings.runcomfy.account
    if not services.began_empty or not account.is_paid:
        return ""
    signs = await asyncio.to_thread(lambda: [*_signs(services.journal, Path.cwd())])
    if not signs:
        return ""
    used = services.journal.place or "a ledger in memory"
    more = f" and {len(signs) - _NAMED:,} more" if len(signs) > _NAMED else ""
    return (
        f"The ledger {used} has nothing of {account} yet, and this place was used before: "
        f"{'; '.join(signs[:_NAMED])}{more}. If you mean that ledger, stop now and name "
        "it: COMFYLINE_LEDGER_URL, `ledger` in the profile, or COMFYLINE_HOME. What neither the "
        "journal nor a sidecar beside its output tells of would be paid for again"
    )


def _signs(journal: Journal, working_directory: Path) -> Iterator[str]:
    places: dict[str, int] = {}
    for line in journal.lines():
        if line.request_id and line.entry.account.is_paid:
            places[line.entry.place] = places.get(line.entry.place, 0) + 1
    for place, number in places.items():
        yield f"{number:,} accepted in the journal {journal.path}, by the ledger {place}"
    folders = dict.fromkeys((home(), (working_directory / ".comfyline").resolve()))
    for path in (path for folder in folders for path in sorted(folder.glob("*.sqlite3"))):
        if str(path.resolve()) != journal.place and (number := _paid_for(path)):
            yield f"{number:,} paid for in the ledger {path}"


def _paid_for(path: Path) -> int:
    """Count the requests of paid origins in a ledger's file; 0 for what is no ledger."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger,
    ):
        return int(ledger.execute(_PAID_FOR).fetchone()[0])
    return 0
