"""A rendered job → a checked one, or all its mistakes. Shared by `validate` and the plan."""

import math
from collections.abc import Mapping
from dataclasses import replace

from comfyline.addresses import bare_origin
from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.job import CheckedJob, Job, Media
from comfyline.keys import job_key
from comfyline.models.check import check_inputs, field_path
from comfyline.models.dialect import MediaField, media_fields
from comfyline.models.entry import ModelEntry
from comfyline.models.price import estimate
from comfyline.storage.origins import Facts, Origins, Trouble
from comfyline.storage.place import folder_mistake

_IMAGE_LIMIT = 50 * 1024 * 1024
_OTHER_LIMIT = 100 * 1024 * 1024


async def identify(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Checks everything about a job that costs nothing and gives it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job: fields
    against the model's schema, media against what is really there.
    """
    return judge(job, entry, await origins.look(media_origins(job, entry)))


def media_origins(job: Job, entry: ModelEntry) -> list[str]:
    """The media inputs of a job, as they are written."""
    return [field.value for field in media_fields(entry.input_schema, job.inputs)]


def judge(job: Job, entry: ModelEntry, facts: Mapping[str, Facts | Trouble]) -> CheckedJob:
    """The same as `identify` for media that have been looked at already; waits for nothing."""
    problems = check_inputs(entry, job.inputs)
    said = {problem.where for problem in problems}
    media: list[Media] = []
    for field in media_fields(entry.input_schema, job.inputs):
        if field_path(field.pointer) in said:
            continue
        found = _media(field, facts[field.value])
        if isinstance(found, Media):
            media.append(found)
        else:
            problems.append(found)
    if mistake := folder_mistake(job.placement.folder):
        problems.append(Problem("output.to", mistake, "use a folder or s3://bucket/prefix"))
    key = ""
    try:
        key = job_key(job.model_id, job.inputs, media, job.variant)
    except InputInvalid as error:
        problems += error.problems
    if problems:
        raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
    return CheckedJob(job=job, key=key, media=tuple(media), estimate_usd=None)


def estimate_usd(checked: CheckedJob, entry: ModelEntry) -> float | None:
    """What the job will probably cost; None when the price is unknown."""
    return estimate(entry, checked.job.inputs)


def _where(job: Job, field: str) -> str:
    return f"{job.source}: {field}" if job.source else field


def _media(field: MediaField, facts: Facts | Trouble) -> Media | Problem:
    where = field_path(field.pointer)
    shown = bare_origin(field.value)
    if not isinstance(facts, Facts):
        return _trouble(where, shown, facts)
    limit = _IMAGE_LIMIT if field.kind == "image" else _OTHER_LIMIT
    if not facts.bytes:
        return Problem(where, f"{shown} is empty")
    if facts.bytes > limit:
        size, most = math.ceil(facts.bytes * 10 / 2**20) / 10, limit // 2**20
        return Problem(where, f"{shown} has {size:.1f} MB; RunComfy takes at most {most} MB")
    if not facts.media_type.startswith(f"{field.kind}/"):
        is_what = facts.media_type or "no picture, video or sound that is known"
        return Problem(where, f"{shown} is {is_what}, not {field.kind}", "by its content")
    return Media(
        pointer=field.pointer,
        origin=field.value,
        kind=field.kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
    )


def _trouble(where: str, shown: str, trouble: Trouble) -> Problem:
    if isinstance(trouble, Unreachable):
        return Problem(where, trouble.message, trouble.hint)
    if isinstance(trouble, FileNotFoundError):
        return Problem(where, f"there is no file {shown}", "check the path and the source")
    if isinstance(trouble, IsADirectoryError):
        return Problem(where, f"{shown} is a folder", "name a file in it")
    reason = trouble.strerror or type(trouble).__name__
    return Problem(where, f"{shown} cannot be read: {reason}")
