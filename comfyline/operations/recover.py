"""What dead processes left lying about: removed, written down at last, or kept because it is paid.

Done at the beginning of every run and of every `reconcile`, and never in anybody's way: what a
living process uses is left alone, and so is what this ledger knows nothing of.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from comfyline.files import is_in_use, sweep_parts
from comfyline.job import JobState
from comfyline.ledger.queries import Selection
from comfyline.ledger.unrecorded import recover, recovered_in_words
from comfyline.progress import Note, tell
from comfyline.services import Services
from comfyline.storage.place import folder_path, is_local
from comfyline.storage.uploads import CONVERTED

_OVER = {JobState.PERSISTED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
_REMEMBERED = timedelta(days=7)
"""As long as RunComfy keeps a result: no older one is worth asking for."""
_OWN_FOLDERS = ("runs/*", "thumbnails", "models/**", CONVERTED)


async def settle_what_can_be(services: Services) -> None:
    """End the doubts that need no person: an answer that was kept, a lease that is over.

    What was accepted from this machine and the ledger does not know is written down.
    """
    for text in recovered_in_words(await recover(services.journal, services.ledger)):
        tell(Note(text))
    await services.ledger.end_dead_leases()


async def clean_up(output_folders: Iterable[str], services: Services) -> None:
    """Write down what was accepted and could not be, and remove what nobody needs any more."""
    await settle_what_can_be(services)
    home = services.settings.home

    def sweep_all() -> None:
        outputs = {folder_path(folder) for folder in output_folders if is_local(folder)}
        for path in [*outputs, *(path for own in _OWN_FOLDERS for path in home.glob(own))]:
            sweep_parts(path)

    await asyncio.to_thread(sweep_all)
    await _clean_work(services)


def forget_results(home: Path, now: datetime) -> None:
    """Remove what Prefect remembers of stages (`tasks/caching.py`) after a week. Blocks.

    Without it a repeated flow run asks RunComfy once more; the ledger decides as ever.
    """
    oldest = (now - _REMEMBERED).timestamp()
    for path in (home / "prefect-client/storage").glob("*"):
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()


def clear(directory: Path) -> None:
    """Remove what this process fetched and what dead ones left; a living one may use its own."""
    # Another process may be at the same.
    with suppress(FileNotFoundError):
        sweep_parts(directory)
        for path in directory.iterdir():
            if not is_in_use(path):
                path.unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()


async def _clean_work(services: Services) -> None:
    """Clear the work folders of what is over; of a result that is not stored, it is the copy."""
    folders = await asyncio.to_thread(lambda: [*services.work.glob("*/")])
    if folders:
        these = Selection(request_ids=tuple(folder.name for folder in folders))
        for attempt in await services.ledger.list(these, of_all=True):
            if attempt.state in _OVER and attempt.request_id:
                with suppress(OSError):
                    await asyncio.to_thread(clear, services.work_directory(attempt.request_id))
