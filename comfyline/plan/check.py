"""A rendered job → a checked one, or all its mistakes. Shared by `validate` and the plan."""

from dataclasses import dataclass, replace
from typing import Self

from comfyline.errors import InputInvalid, Problem
from comfyline.job import PENDING, CheckedJob, Job, Media, MediaKind, takes_pending
from comfyline.keys import job_key
from comfyline.models.check import check_inputs, field_path, is_too_deep
from comfyline.models.dialect import (
    MediaField,
    Reading,
    explicit_media,
    media_fields,
    unmarked_media,
)
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.models.price import estimate
from comfyline.plan.check_media import check_pending
from comfyline.plan.findings import Findings
from comfyline.storage.origins import Origins

_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")


async def identify(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Checks everything about a job that costs nothing and gives it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job: fields
    against the model's schema, media against what is really there. A placeholder is one, too.
    """
    subject = Subject.of(job, entry)
    checked = judge(subject, Findings(await origins.look(subject.origins)))
    if not checked.key:
        raise InputInvalid([Problem(job.source, "what another step makes is not there yet")])
    return checked


@dataclass(frozen=True, slots=True)
class Subject:
    """A job beside its model, with the media that it takes."""

    job: Job
    entry: ModelEntry
    media: tuple[MediaField, ...]

    @classmethod
    def of(cls, job: Job, entry: ModelEntry) -> Self:
        """Finds the media in a job's inputs."""
        return cls(job, entry, tuple(_media_fields(job, entry)))

    @property
    def origins(self) -> list[str]:
        """The media inputs that are there to be looked at, as they are written."""
        return [field.value for field in self.media if not _is_pending(field)]


def judge(subject: Subject, found: Findings) -> CheckedJob:
    """The same as `identify` for media that have been looked at already; waits for nothing.

    A placeholder of a job, which takes what another step has not made yet, gets no key; nor does a
    job with a medium that is not among the facts, because nobody was to look at it.
    """
    job, entry = subject.job, subject.entry
    problems = check_inputs(entry, job.inputs)
    found.patterns(entry)
    if isinstance(entry, UncheckedModel):
        problems += [
            Problem(
                field_path(at),
                "the model has no schema that says this is media",
                "write @ before it",
            )
            for at in unmarked_media(job.inputs)
        ]
    said = {problem.where for problem in problems}
    media: list[Media] = []
    is_whole = True
    for field in subject.media:
        where = field_path(field.pointer)
        if where in said:
            continue
        if _is_pending(field):
            problems += check_pending(where, field)
            continue
        judged = found.medium(job, field)
        if judged is None:
            is_whole = False
            continue
        problems += judged.problems
        if judged.medium:
            media.append(judged.medium)
    if mistake := found.folder(job.placement):
        problems.append(Problem("output.to", mistake, "use a folder or s3://bucket/prefix"))
    key = ""
    try:
        key = _key(job, media) if is_whole and not takes_pending(job.inputs) else ""
    except InputInvalid as error:
        problems += error.problems
    if problems:
        raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
    return CheckedJob(job=job, key=key, media=tuple(media), estimate_usd=None)


def estimate_usd(checked: CheckedJob, entry: ModelEntry) -> float | None:
    """What the job will probably cost; None when the price is unknown."""
    return estimate(entry, checked.job.inputs)


def _is_pending(field: MediaField) -> bool:
    return field.value.startswith(PENDING)


def _media_fields(job: Job, entry: ModelEntry) -> list[MediaField]:
    if isinstance(entry, UncheckedModel):
        readings = tuple(Reading(kind, is_unknown=True) for kind in _KINDS)
        return [MediaField(at, value, readings) for at, value in explicit_media(job.inputs)]
    plain = entry.plain_fields
    asked = {name: value for name, value in job.inputs.items() if name not in plain}
    return media_fields(entry.input_schema, asked)


def _key(job: Job, media: list[Media]) -> str:
    if is_too_deep(job.variant):
        raise InputInvalid([Problem("variant", "is nested too deep")])
    if is_too_deep(job.inputs):
        return ""  # The check of the inputs has said so.
    return job_key(job.model_id, job.inputs, media, job.variant)


def _where(job: Job, field: str) -> str:
    if job.written:
        return job.written.where(field)
    return f"{job.source}: {field}" if job.source else field
