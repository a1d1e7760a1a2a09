"""All jobs of a run judged at once, so that every mistake is known before the first upload."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import CheckedJob, Job
from comfyline.models.entry import ModelEntry
from comfyline.plan.check import Subject, judge
from comfyline.plan.findings import Findings
from comfyline.services import Services
from comfyline.storage.facts import Facts, Trouble

Verdict = CheckedJob | ComfylineError


class Looking(Protocol):
    """Who looks at media inputs: `comfyline.storage.origins.Origins`, or less than it."""

    async def look(self, origins: Iterable[str], /) -> dict[str, Facts | Trouble]:
        """The facts of media inputs, or for each what is in the way. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The jobs in their order: each in its checked form, None for one with mistakes.

    `mistakes` are those of all jobs, the same one said once; `notes` are sentences about what is
    no mistake and worth knowing.
    """

    checked: tuple[CheckedJob | None, ...]
    mistakes: tuple[Problem, ...]
    notes: tuple[str, ...]


async def judge_all(jobs: Sequence[Job], services: Services) -> Verdicts:
    """The verdict that the stage `validate` would give on each job. Spends and writes nothing."""
    entries: dict[str, ModelEntry | ComfylineError] = {}
    for model_id in dict.fromkeys(job.model_id for job in jobs):
        try:
            entries[model_id] = await services.catalogue.entry(model_id)
        except ComfylineError as error:
            entries[model_id] = error
    return await judge_with([(job, entries[job.model_id]) for job in jobs], services.origins)


async def judge_with(
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]], origins: Looking
) -> Verdicts:
    """The same for jobs whose models are known, or known to be missing and why.

    A medium that `origins` does not look at is not judged, and its job gets no key.
    """
    # In threads: ten thousand jobs take a second.
    subjects = await asyncio.to_thread(lambda: [_subject(*pair) for pair in pairs])
    wanted = (origin for one in subjects if isinstance(one, Subject) for origin in one.origins)
    found = Findings(await origins.look(wanted))

    def judged() -> Verdicts:
        verdicts = [_verdict(one, found) for one in subjects]
        return Verdicts(
            checked=tuple(one if isinstance(one, CheckedJob) else None for one in verdicts),
            mistakes=_mistakes([job for job, _ in pairs], verdicts),
            notes=tuple(found.notes()),
        )

    return await asyncio.to_thread(judged)


def _subject(job: Job, entry: ModelEntry | ComfylineError) -> Subject | ComfylineError:
    return Subject.of(job, entry) if isinstance(entry, ModelEntry) else entry


def _verdict(subject: Subject | ComfylineError, found: Findings) -> Verdict:
    if isinstance(subject, ComfylineError):
        return subject
    try:
        return judge(subject, found)
    except ComfylineError as error:
        return error


def _mistakes(jobs: Sequence[Job], verdicts: Sequence[Verdict]) -> tuple[Problem, ...]:
    found: dict[Problem, None] = {}
    for job, one in zip(jobs, verdicts, strict=True):
        if isinstance(one, InputInvalid):
            found |= dict.fromkeys(one.problems)
        elif isinstance(one, ComfylineError):
            found[Problem(job.source or job.label, one.message, one.hint)] = None
    return tuple(found)
