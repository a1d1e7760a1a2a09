"""A rendered job → a checked one, or all its mistakes. Shared by `validate` and the plan."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from comfyline.errors import InputInvalid, Problem
from comfyline.job import CheckedJob, Job, Media, MediaKind, Pointer
from comfyline.keys import job_key
from comfyline.media_check import check_medium
from comfyline.models.check import check_inputs, field_path, is_too_deep
from comfyline.models.dialect import MediaField, Reading, media_fields
from comfyline.models.entry import ModelEntry
from comfyline.models.price import estimate
from comfyline.models.unchecked import UncheckedModel, explicit_media
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.origins import Origins
from comfyline.storage.place import folder_mistake

_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
_NAMED = 3
"""How many of those that a note is about are named in it."""


async def identify(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Checks everything about a job that costs nothing and gives it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job: fields
    against the model's schema, media against what is really there.
    """
    return judge(job, entry, await origins.look(media_origins(job, entry)))


def media_origins(job: Job, entry: ModelEntry) -> list[str]:
    """The media inputs of a job, as they are written."""
    return [field.value for field in _media_fields(job, entry)]


def judge(job: Job, entry: ModelEntry, facts: Mapping[str, Facts | Trouble]) -> CheckedJob:
    """The same as `identify` for media that have been looked at already; waits for nothing."""
    problems = check_inputs(entry, job.inputs)
    said = {problem.where for problem in problems}
    media: list[Media] = []
    for field in _media_fields(job, entry):
        where = field_path(field.pointer)
        if where in said:
            continue
        judged = check_medium(where, field, facts[field.value])
        problems += judged.problems
        if judged.medium:
            media.append(judged.medium)
    if mistake := folder_mistake(job.placement.folder):
        problems.append(Problem("output.to", mistake, "use a folder or s3://bucket/prefix"))
    key = ""
    try:
        key = _key(job, media)
    except InputInvalid as error:
        problems += error.problems
    if problems:
        raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
    return CheckedJob(job=job, key=key, media=tuple(media), estimate_usd=None)


def estimate_usd(checked: CheckedJob, entry: ModelEntry) -> float | None:
    """What the job will probably cost; None when the price is unknown."""
    return estimate(entry, checked.job.inputs)


def notes(
    pairs: Iterable[tuple[Job, ModelEntry]], facts: Mapping[str, Facts | Trouble]
) -> list[str]:
    """What is no mistake in these jobs' media and worth a line, each thing said once for all."""
    seen: set[tuple[str, Pointer, str]] = set()
    subjects: dict[str, dict[str, None]] = {}
    for job, entry in pairs:
        for field in _media_fields(job, entry):
            if (this := (job.model_id, field.pointer, field.value)) in seen:
                continue
            seen.add(this)
            for remark in check_medium("", field, facts[field.value]).remarks:
                subjects.setdefault(remark.text, {})[remark.subject] = None
    return [f"{_some(list(named))}: {text}" for text, named in subjects.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _media_fields(job: Job, entry: ModelEntry) -> list[MediaField]:
    if isinstance(entry, UncheckedModel):
        readings = tuple(Reading(kind) for kind in _KINDS)
        return [MediaField(at, value, readings) for at, value in explicit_media(job.inputs)]
    return media_fields(entry.input_schema, job.inputs)


def _key(job: Job, media: list[Media]) -> str:
    if is_too_deep(job.variant):
        raise InputInvalid([Problem("variant", "is nested too deep")])
    if is_too_deep(job.inputs):
        return ""  # The check of the inputs has said so.
    return job_key(job.model_id, job.inputs, media, job.variant)


def _where(job: Job, field: str) -> str:
    return f"{job.source}: {field}" if job.source else field
