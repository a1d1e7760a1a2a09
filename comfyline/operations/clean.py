"""What may go of what comfyline has put somewhere, and what somebody still needs."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.operations.recover import clear, finished_work

_READS_INPUTS = (
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.IN_QUEUE,
    JobState.IN_PROGRESS,
    JobState.IN_DOUBT,
)
"""States in which RunComfy may still fetch a job's inputs."""


@dataclass(frozen=True, slots=True)
class OldFiles:
    """Files and folders of this machine that can go, and their size in bytes."""

    paths: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class NeededInputs:
    """The SHA-256 of every input that RunComfy may still fetch, and whether any is a copy."""

    sha256: frozenset[str]
    copies: bool


async def needed_inputs(ledger: Ledger) -> NeededInputs:
    """Return what RunComfy may still fetch for the jobs that are not finished."""
    attempts = [
        one
        for state in _READS_INPUTS
        for one in await ledger.list(Selection(state=state), of_all=True)
    ]
    media = [one for attempt in attempts for one in attempt.checked.media]
    return NeededInputs(
        frozenset(one.sha256 for one in media), copies=any(one.conversion for one in media)
    )


def old_results(home: Path, before: datetime) -> OldFiles:
    """Find what Prefect remembers of stages (`tasks/caching.py`) since before a moment. Blocks.

    Without it a flow run that is repeated asks RunComfy once more; the ledger decides as ever.
    """
    return _old((home / "prefect-client/storage").glob("*"), before)


async def old_work(home: Path, ledger: Ledger, before: datetime) -> OldFiles:
    """Find work folders of what is over, which were last written before a moment."""
    return _old(await finished_work(home / "work", ledger), before)


def remove_files(found: OldFiles) -> int:
    """Remove files, and folders with what dead processes left; return how many are gone. Blocks.

    What cannot be removed, or is gone already, is left as it is.
    """
    for path in found.paths:
        with suppress(OSError):
            if path.is_dir():
                clear(path)
            else:
                path.unlink()
    return sum(not path.exists() for path in found.paths)


def _old(paths: Iterable[Path], before: datetime) -> OldFiles:
    old: list[Path] = []
    size = 0
    for path in sorted(paths):
        with suppress(OSError):
            inside = [one.stat() for one in path.iterdir()] if path.is_dir() else []
            all_of_it = [path.stat(), *inside]
            if max(one.st_mtime for one in all_of_it) < before.timestamp():
                old.append(path)
                size += sum(one.st_size for one in (inside if path.is_dir() else all_of_it))
    return OldFiles(tuple(old), size)
