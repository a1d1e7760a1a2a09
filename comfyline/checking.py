"""A rendered job → a checked one, or all its mistakes. Shared by `validate` and the plan."""

import asyncio
from dataclasses import replace

from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.job import CheckedJob, Job, Media
from comfyline.keys import job_key
from comfyline.models.check import check_inputs
from comfyline.models.dialect import MediaField, media_fields
from comfyline.models.entry import ModelEntry
from comfyline.models.price import estimate
from comfyline.storage.origins import Origins, is_remote

_IMAGE_LIMIT = 50 * 1024 * 1024
_OTHER_LIMIT = 100 * 1024 * 1024


async def identify(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Checks everything about a job that costs nothing and gives it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job: fields
    against the model's schema, media against what is really there.
    """
    problems = check_inputs(entry, job.inputs)
    fields = media_fields(entry.input_schema, job.inputs)
    found = await asyncio.gather(*(_media(field, origins) for field in fields))
    problems += [part for part in found if isinstance(part, Problem)]
    media = tuple(part for part in found if isinstance(part, Media))
    if problems:
        raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
    key = job_key(job.model_id, job.inputs, media, job.variant)
    return CheckedJob(job=job, key=key, media=media, estimate_usd=None)


def estimate_usd(checked: CheckedJob, entry: ModelEntry) -> float | None:
    """What the job will probably cost; None when the price is unknown."""
    return estimate(entry, checked.job.inputs)


def _where(job: Job, field: str) -> str:
    return f"{job.source}: {field}" if job.source else field


async def _media(field: MediaField, origins: Origins) -> Media | Problem:
    where = ".".join(map(str, field.pointer))
    origin = str(field.value)
    shown = origin.split("?", 1)[0]
    try:
        facts = await origins.facts(origin)
    except FileNotFoundError:
        return Problem(where, f"there is no file {shown}", "check the path and the source")
    except (OSError, Unreachable) as error:
        return Problem(where, f"{shown} cannot be read: {error}")
    limit = _IMAGE_LIMIT if field.kind == "image" else _OTHER_LIMIT
    if not facts.bytes:
        return Problem(where, f"{shown} is empty")
    if facts.bytes > limit:
        size, most = facts.bytes / 2**20, limit // 2**20
        return Problem(where, f"{shown} has {size:.0f} MB; RunComfy takes at most {most} MB")
    if not facts.media_type.startswith(field.kind) and not is_remote(origin):
        is_what = facts.media_type or "no known media type"
        return Problem(where, f"{shown} is {is_what}, not {field.kind}", "by its content")
    return Media(
        pointer=field.pointer,
        origin=origin,
        kind=field.kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
    )
