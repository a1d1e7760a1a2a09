"""What a run would do to files that are there, and which other pipeline calls itself the same."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from comfyline.errors import InputInvalid
from comfyline.job import CheckedJob, Job
from comfyline.ledger.decision import Decision
from comfyline.ledger.stored import Recorded
from comfyline.pipeline.naming import output_name
from comfyline.plan.preflight import Outlook, decision_about
from comfyline.plan.reuse import claimed, folder_of
from comfyline.report.words import count
from comfyline.run import Run
from comfyline.services import Services
from comfyline.storage.place import join

_NAMED = 5


async def moving_aside(outlook: Outlook, run: Run, services: Services) -> tuple[str, ...]:
    """Name the stored files that newer outputs would take the names of."""
    at = services.now()
    to_store = [
        (job, checked)
        for job, checked in outlook.to_make
        if checked and _stores(job, checked, outlook, run, at)
    ]
    folders = {folder_of(job) for job, _ in to_store}
    by_folder: dict[str, list[Recorded]] = defaultdict(list)
    for one in await services.ledger.stored_in(sorted(folders)):
        by_folder[one.uri.rpartition("/")[0]].append(one)
    found: dict[str, str] = {}
    for job, checked in to_store:
        folder = folder_of(job)
        there = {one.uri: one for one in by_folder[folder]}
        for uri in _names(job, by_folder[folder]):
            other = there.get(uri)
            if other and (other.key != checked.key or _is_anew(job, checked, outlook, run, at)):
                found[uri] = f"{uri} (pipeline {other.pipeline})"
    if not found:
        return ()
    named = ", ".join([*found.values()][:_NAMED])
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    files = count(len(found), "stored file")
    return (
        f"{files} would move aside to a version name, as newer outputs take theirs: {named}{more}",
    )


async def namesakes(jobs: Sequence[Job], services: Services) -> tuple[str, ...]:
    """Name other pipeline files of the same name, as far as the ledger has heard of them."""
    if not jobs:
        return ()
    name, mine = jobs[0].pipeline, Path(_file(jobs[0].source))
    others = sorted({_file(source) for source in await services.ledger.sources(name)})
    return tuple(
        f"{other} calls itself {name} as well: `jobs`, `cancel` and the limit of a day take them "
        "for one, and either may take the other's names for outputs; give one another `name`"
        for other in others
        if _is_another(Path(other), mine)
    )


def _stores(job: Job, checked: CheckedJob, outlook: Outlook, run: Run, at: datetime) -> bool:
    attempt = outlook.known.get(checked.key)
    match decision_about(job, attempt, run, at):
        case Decision.SUBMIT | Decision.RESUME:
            return True
        case Decision.REUSE if attempt:
            return not claimed(job, attempt)
        case _:
            return False


def _is_anew(job: Job, checked: CheckedJob, outlook: Outlook, run: Run, at: datetime) -> bool:
    return decision_about(job, outlook.known.get(checked.key), run, at) is Decision.SUBMIT


def _names(job: Job, there: Iterable[Recorded]) -> Iterator[str]:
    """The names that a job's outputs may get, of the kinds that the folder holds already."""
    kinds = {(one.index, one.uri.rpartition(".")[2]) for one in there}
    for index, ending in sorted(kinds):
        with suppress(InputInvalid):
            yield join(job.placement.folder, output_name(job.placement, index, ending))


def _file(source: str) -> str:
    """The file of a place such as `cats.yaml:5:3`."""
    return source.rsplit(":", 2)[0]


def _is_another(file: Path, mine: Path) -> bool:
    # One that is not there any more was renamed, or lies in another project.
    with suppress(OSError):
        return file.is_file() and not file.samefile(mine)
    return False
