"""clean: removes what comfyline has put in storage and at home, when it is old and not needed."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from cyclopts import Parameter

from comfyline.cli.console import answer, say
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import reading_ledger
from comfyline.config.duration import parse_duration
from comfyline.config.environment import home, prepare_storage
from comfyline.errors import TryLater, UsageError
from comfyline.ledger.ledger import Ledger
from comfyline.operations.clean import OldFiles, needed_inputs, old_results, old_work, remove_files
from comfyline.report.format import count
from comfyline.services import now, open_places
from comfyline.storage.upload_cleaning import OldUploads, find_old, remove

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """What was found in one place, and how much of it was removed."""

    what: str
    files: int
    bytes: int
    removed: int = 0
    needed: int = 0
    foreign: int = 0


def clean(
    *,
    uploads: Annotated[
        bool, Parameter(name="--uploads", negative="", help="Uploaded inputs, in object storage.")
    ] = False,
    results: Annotated[
        bool,
        Parameter(
            name="--results",
            negative="",
            help="What Prefect remembers of finished stages, and work folders of what is stored.",
        ),
    ] = False,
    older_than: Annotated[
        str, Parameter(name="--older-than", help="Only what was last written so long ago.")
    ] = "7d",
    dry_run: Annotated[
        bool, Parameter(name="--dry-run", negative="", help="Only say what would be removed.")
    ] = False,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Remove old uploads and remembered results; without an option, say what could be removed.

    Of object storage only what comfyline has uploaded there, by its name, and never what RunComfy
    may still fetch. Outputs and the ledger are not touched.

    Example: comfyline clean --uploads --older-than 7d
    """
    before = _moment(older_than)
    is_asked = uploads or results
    removes = is_asked and not dry_run
    found: list[_Cleaned] = []

    async def work() -> None:
        with reading_ledger(profile) as ledger:
            if uploads or not is_asked:
                found.append(await _uploads(profile, ledger, before, removes=removes))
            if results or not is_asked:
                found.extend(await _results(ledger, before, removes=removes))

    asyncio.run(work())
    if json_output:
        answer(json.dumps(_as_json(found)))
    for one in found:
        say(_words(one, removes=removes))
    if not is_asked:
        say("Nothing was removed: say --uploads, --results or both.")
    return 0


async def _uploads(profile: str, ledger: Ledger, before: datetime, *, removes: bool) -> _Cleaned:
    storage = await prepare_storage(profile, say)

    async def nobody_is_at_work() -> bool:
        return not await ledger.is_anybody_at_work()

    # A run that has looked for an upload and not yet submitted stands in no ledger.
    if removes and not await nobody_is_at_work():
        raise TryLater(
            "A run is at work, and may need any upload that is there",
            hint="Clean when it has ended, or look with --dry-run.",
        )
    async with open_places(storage) as places:
        needed = await needed_inputs(ledger)
        old = await find_old(
            places.bucket, storage.uploads, before, needed.sha256, copies=needed.copies
        )
        gone = await remove(places.bucket, old.removable, nobody_is_at_work) if removes else 0
    if removes and gone < len(old.removable):
        say("A run has begun: the rest of the uploads stays until the next time.")
    return _Cleaned(
        "upload",
        len(old.removable),
        _bytes(old, gone, removes=removes),
        gone,
        old.needed,
        old.foreign,
    )


def _bytes(old: OldUploads, gone: int, *, removes: bool) -> int:
    return sum(one.bytes for one in old.removable[:gone]) if removes else old.bytes


async def _results(ledger: Ledger, before: datetime, *, removes: bool) -> list[_Cleaned]:
    remembered = await asyncio.to_thread(old_results, home(), before)
    work = await old_work(home(), ledger, before)
    return [
        await _removed("remembered result", remembered, removes=removes),
        await _removed("work folder", work, removes=removes),
    ]


async def _removed(what: str, old: OldFiles, *, removes: bool) -> _Cleaned:
    gone = await asyncio.to_thread(remove_files, old) if removes else 0
    return _Cleaned(what, len(old.paths), old.bytes, gone)


def _words(one: _Cleaned, *, removes: bool) -> str:
    verb = "removed" if removes else "could be removed"
    number = one.removed if removes else one.files
    size = f"{one.bytes / 1e6:,.1f} MB" if one.bytes >= _MB else f"{one.bytes / 1e3:,.1f} kB"
    text = f"{count(number, one.what)} {verb}, {size}"
    if removes and one.removed < one.files:
        text += f"; {one.files - one.removed:,} stay"
    if one.needed:
        text += f"; {one.needed:,} kept for jobs that are not finished"
    if one.foreign:
        text += f"; {one.foreign:,} left alone: not put there by comfyline"
    return f"{text}."


def _as_json(found: list[_Cleaned]) -> dict[str, Any]:
    return {
        f"{one.what.replace(' ', '_')}s": {
            "found": one.files,
            "removed": one.removed,
            "bytes": one.bytes,
            "needed": one.needed,
            "foreign": one.foreign,
        }
        for one in found
    }


def _moment(older_than: str) -> datetime:
    try:
        return now() - timedelta(seconds=parse_duration(older_than))
    except (ValueError, OverflowError):
        raise UsageError(
            f"--older-than {older_than!r} is no length of time", hint="Write 7d, 12h or 30m."
        ) from None
