"""All jobs of a run judged at once, so that every mistake is known before the first upload."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comfyline.checking import judge, media_origins, notes
from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.job import CheckedJob, Job
from comfyline.models.entry import ModelEntry
from comfyline.services import Services
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.origins import Origins

Verdict = CheckedJob | ComfylineError


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
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]], origins: Origins
) -> Verdicts:
    """The same for jobs whose models are known, or known to be missing and why."""
    known = [(job, entry) for job, entry in pairs if isinstance(entry, ModelEntry)]
    wanted = (origin for job, entry in known for origin in media_origins(job, entry))
    facts = await origins.look(wanted)

    def judged() -> Verdicts:
        verdicts = [_verdict(job, entry, facts) for job, entry in pairs]
        return Verdicts(
            checked=tuple(one if isinstance(one, CheckedJob) else None for one in verdicts),
            mistakes=_mistakes([job for job, _ in pairs], verdicts),
            notes=tuple(notes(known, facts)),
        )

    return await asyncio.to_thread(judged)


def _verdict(
    job: Job, entry: ModelEntry | ComfylineError, facts: Mapping[str, Facts | Trouble]
) -> Verdict:
    if isinstance(entry, ComfylineError):
        return entry
    try:
        return judge(job, entry, facts)
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
