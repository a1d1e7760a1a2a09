"""Validate rendered jobs: inputs against the model's schema, media against what is there.

Every mistake of every job is known before the first upload.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from comfyline.broken_connections import why_not
from comfyline.errors import ComfylineError, InputInvalid, Problem, Unreachable
from comfyline.job import PENDING, CheckedJob, Job, Media, MediaKind, Preparation, takes_pending
from comfyline.keys import job_key
from comfyline.media.convert import (
    CONVERTIBLE,
    Conversion,
    conversion_for,
    info_of_copy,
    too_many_pixels,
)
from comfyline.media.types import MOST_BYTES, SVG, TAKEN, kind_of, media_type_of_name
from comfyline.models.check import check_inputs, field_path, is_too_deep
from comfyline.models.dialect import (
    MediaField,
    Reading,
    explicit_media,
    media_fields,
    unmarked_media,
)
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.models.media_rules import bounds, check_rules, nearest
from comfyline.redact import bare_origin
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.origins import Origins
from comfyline.storage.place import folder_mistake

if TYPE_CHECKING:
    # `check` needs neither the ledger nor the client, and does not load them.
    from comfyline.services import Services

Found = Mapping[str, Facts | Trouble]
LookUp = Callable[[Iterable[str]], Awaitable[Found]]
"""Tells what media inputs are, or for each what is in the way: `Origins.look`, or less than it."""

_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
_NOT_CHECKED = "a rule that cannot be checked here; RunComfy judges by it"
_DOWNSCALE = "write `downscale: true` under the step to submit a smaller copy"
_TYPE_NAMES = {"image/jpeg": "jpe?g", "image/tiff": "tiff?", "image/heic": "hei[cf]"}
"""What people call a type where that is not its plain name."""
_NAMED = 3
"""How many of those that a note is about are named in it."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The jobs in their order: each in its checked form, None for one with mistakes.

    `mistakes` are those of all jobs, the same one said once; `notes` are sentences about what is
    no mistake and worth knowing.
    """

    checked: tuple[CheckedJob | None, ...]
    mistakes: tuple[Problem, ...]
    notes: tuple[str, ...]


async def validate_job(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Check everything about a job that costs nothing and give it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job; a
    placeholder, which takes what another step has not made yet, is one, too.
    """
    validation = await validate_pairs([(job, entry)], origins.look)
    [checked] = validation.checked
    if checked is None:
        raise InputInvalid(validation.mistakes)
    if not checked.key:
        raise InputInvalid([Problem(job.source, "what another step makes is not there yet")])
    return checked


async def validate_jobs(jobs: Sequence[Job], services: "Services") -> Validation:
    """Validate many jobs as their stage `validate` would; spends and writes nothing."""
    entries: dict[str, ModelEntry | ComfylineError] = {}
    for model_id in dict.fromkeys(job.model_id for job in jobs):
        try:
            entries[model_id] = await services.catalogue.entry(model_id)
        except ComfylineError as error:
            entries[model_id] = error
    pairs = [(job, entries[job.model_id]) for job in jobs]
    return await validate_pairs(pairs, services.origins.look)


async def validate_pairs(
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]], look_up: LookUp
) -> Validation:
    """Validate jobs whose models are known, or known to be missing and why.

    A medium that `look_up` tells nothing of is not checked, and its job gets no key, nor does a
    placeholder.
    """
    # In threads: ten thousand jobs take a second.
    media = await asyncio.to_thread(
        lambda: [
            _media_fields(job, entry) if isinstance(entry, ModelEntry) else []
            for job, entry in pairs
        ]
    )
    found = await look_up(origin for fields in media for origin in _origins(fields))

    def validated() -> Validation:
        validator = _Validator(found)
        checked: list[CheckedJob | None] = []
        mistakes: dict[Problem, None] = {}
        for (job, entry), fields in zip(pairs, media, strict=True):
            try:
                if isinstance(entry, ComfylineError):
                    raise entry
                checked.append(validator.validate(job, entry, fields))
            except ComfylineError as error:
                checked.append(None)
                here = Problem(job.source or job.label, error.message, error.hint)
                problems = error.problems if isinstance(error, InputInvalid) else [here]
                mistakes |= dict.fromkeys(problems)
        return Validation(tuple(checked), tuple(mistakes), tuple(validator.notes()))

    return await asyncio.to_thread(validated)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A medium, or the problems that keep it from being one; and what is worth knowing of it.

    A remark is a text and its subject: the text is said once for many.
    """

    medium: Media | None = None
    problems: Sequence[Problem] = ()
    remarks: Sequence[tuple[str, str]] = ()


@dataclass(slots=True)
class _Validator:
    """Validate jobs from what was found of their media, each medium once for all that share it."""

    found: Found
    _media: dict[object, _Checked] = field(default_factory=dict)
    _folders: dict[tuple[str, str], str] = field(default_factory=dict)

    def validate(self, job: Job, entry: ModelEntry, fields: Sequence[MediaField]) -> CheckedJob:
        problems = check_inputs(entry, job.inputs)
        if isinstance(entry, UncheckedModel):
            message = "the model has no schema that says this is media"
            unmarked = map(field_path, unmarked_media(job.inputs))
            problems += [Problem(at, message, "write @ before it") for at in unmarked]
        said = {problem.where for problem in problems}
        media: list[Media] = []
        is_whole = not takes_pending(job.inputs)
        for one in fields:
            if (where := field_path(one.pointer)) in said:
                continue
            if one.value.startswith(PENDING):
                problems += _check_pending(where, one)
            elif checked := self._medium(job, where, one):
                problems += checked.problems
                media += [checked.medium] if checked.medium else []
            else:
                is_whole = False
        if mistake := self._folder_mistake(job):
            problems.append(Problem("output.to", mistake))
        key = ""
        try:
            key = _key(job, media) if is_whole else ""
        except InputInvalid as error:
            problems += error.problems
        if problems:
            raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
        return CheckedJob(job=job, key=key, media=tuple(media), estimate_usd=None)

    def notes(self) -> list[str]:
        """Say what is no mistake and worth a line, each thing once for all."""
        subjects: dict[str, dict[str, None]] = {}
        for one in self._media.values():
            for text, subject in one.remarks:
                subjects.setdefault(text, {})[subject] = None
        return [f"{_some(list(named))}: {text}" for text, named in subjects.items()]

    def _medium(self, job: Job, where: str, one: MediaField) -> _Checked | None:
        if (facts := self.found.get(one.value)) is None:
            return None
        this = job.model_id, one.pointer, one.value, job.preparation
        if this not in self._media:
            self._media[this] = _check_medium(where, one, facts, job.preparation)
        return self._media[this]

    def _folder_mistake(self, job: Job) -> str:
        this = job.placement.folder, job.placement.root
        if this not in self._folders:
            self._folders[this] = folder_mistake(*this)
        return self._folders[this]


def _media_fields(job: Job, entry: ModelEntry) -> list[MediaField]:
    if isinstance(entry, UncheckedModel):
        readings = tuple(Reading(kind, is_unknown=True) for kind in _KINDS)
        return [MediaField(at, value, readings) for at, value in explicit_media(job.inputs)]
    asked = {name: value for name, value in job.inputs.items() if name not in entry.plain_fields}
    return media_fields(entry.input_schema, asked)


def _origins(fields: Iterable[MediaField]) -> list[str]:
    return [one.value for one in fields if not one.value.startswith(PENDING)]


def _key(job: Job, media: list[Media]) -> str:
    if is_too_deep(job.variant):
        raise InputInvalid([Problem("variant", "is nested too deep")])
    if is_too_deep(job.inputs):
        return ""  # The check of the inputs has said so.
    return job_key(job.model_id, job.inputs, media, job.variant)


def _where(job: Job, at: str) -> str:
    if job.written:
        return job.written.where(at)
    return f"{job.source}: {at}" if job.source else at


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _check_pending(where: str, one: MediaField) -> list[Problem]:
    """Check what another step will make, of which its kind is all that may be known."""
    kind = one.value.removeprefix(PENDING).partition(":")[0]
    wanted = dict.fromkeys(reading.kind for reading in one.readings)
    if kind == "any" or kind in wanted:
        return []
    return [Problem(where, f"the other step makes {kind}, and this takes {' or '.join(wanted)}")]


def _check_medium(
    where: str, one: MediaField, facts: Facts | Trouble, preparation: Preparation
) -> _Checked:
    """Check what would be submitted: the copy, if `preparation` allows for one that is needed."""
    shown = bare_origin(one.value)
    if not isinstance(facts, Facts):
        return _Checked(problems=[_unreadable(where, shown, facts)])
    fitting = [reading for reading in one.readings if reading.kind == kind_of(facts.media_type)]
    copy = _copy(fitting, facts, preparation)
    if problem := _unfit(where, one, shown, facts, fitting, copy):
        return _Checked(problems=[problem])
    look = info_of_copy(facts.look, copy) if copy else facts.look
    rules = nearest(check_rules(each.validations, _size(facts, copy), look) for each in fitting)
    name = ".".join(key for key in one.pointer if isinstance(key, str))
    unknown = [(_NOT_CHECKED, f"`{rule}` of `{name}`") for rule in rules.unknown]
    remarks = [*_remarks(shown, facts, copy), *unknown]
    if rules.broken:
        hint = _DOWNSCALE if _would_fit_smaller(fitting, facts, preparation) else ""
        return _Checked(
            problems=[Problem(where, f"{shown}: {said}", hint) for said in rules.broken],
            remarks=remarks,
        )
    medium = Media(
        pointer=one.pointer,
        origin=one.value,
        kind=fitting[0].kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
        conversion=str(copy or ""),
    )
    return _Checked(medium, remarks=remarks)


def _copy(fitting: list[Reading], facts: Facts, preparation: Preparation) -> Conversion | None:
    if not fitting or fitting[0].kind != "image" or facts.look.flaw:
        return None
    return conversion_for(facts.look, facts.bytes, preparation, bounds(fitting[0].validations))


def _size(facts: Facts, copy: Conversion | None) -> int:
    """Return the size to check: what a copy will have is known only as far as it is bounded."""
    return min(facts.bytes, copy.kilobytes * 1024) if copy and copy.kilobytes else facts.bytes


def _would_fit_smaller(fitting: list[Reading], facts: Facts, preparation: Preparation) -> bool:
    """Tell whether a smaller copy, which nobody asked for, would be within the model's rules."""
    copy = _copy(fitting, facts, replace(preparation, downscale=True))
    if copy is None or preparation.downscale:
        return False
    look, size = info_of_copy(facts.look, copy), _size(facts, copy)
    return any(not check_rules(one.validations, size, look).broken for one in fitting)


def _unfit(
    where: str,
    one: MediaField,
    shown: str,
    facts: Facts,
    fitting: list[Reading],
    copy: Conversion | None,
) -> Problem | None:
    """Say why a medium can be submitted to no model, or not in this field; None if it can."""
    if not facts.bytes:
        return Problem(where, f"{shown} is empty")
    taken = {reading.kind for reading in one.readings}
    limit = max(MOST_BYTES[kind] for kind in (taken & {kind_of(facts.media_type)} or taken))
    if facts.bytes > limit and not (copy and copy.kilobytes):
        size = math.ceil(facts.bytes * 10 / 2**20) / 10
        message = f"{shown} has {size:.1f} MB; RunComfy takes at most {limit // 2**20} MB"
        can_be_smaller = facts.media_type in CONVERTIBLE and facts.look.width is not None
        return Problem(where, message, _DOWNSCALE if can_be_smaller else "")
    if not fitting:
        wanted = " or ".join(dict.fromkeys(reading.kind for reading in one.readings))
        is_what, hint = facts.media_type, "by its content, whatever its name says"
        if is_what == SVG:
            is_what, hint = "an SVG drawing", "export it as PNG or JPEG"
        is_what = is_what or "no picture, video or sound that is known"
        return Problem(where, f"{shown} is {is_what}, not {wanted}", hint)
    if facts.look.flaw:
        return Problem(where, f"{shown} {facts.look.flaw}", "replace the file by a whole one")
    return _not_taken(where, shown, facts, fitting, copy)


def _not_taken(
    where: str, shown: str, facts: Facts, fitting: list[Reading], copy: Conversion | None
) -> Problem | None:
    """Say why a whole medium of the right kind cannot be submitted in its form; None if it can."""
    if copy:
        flaw = too_many_pixels(facts.look, copy)
        hint = "write `downscale: true` under the step as well"
        return Problem(where, f"{shown} {flaw}", hint) if flaw else None
    if fitting[0].kind != "image" or any(_takes(each, facts.media_type) for each in fitting):
        return None
    message = f"{shown} is {facts.media_type}, and models take JPEG, PNG, WebP and GIF"
    if facts.media_type in CONVERTIBLE:
        return Problem(where, message, "write `convert: jpeg` under the step to submit a copy")
    return Problem(where, message, "it cannot be converted here: export it as PNG or JPEG")


def _takes(reading: Reading, media_type: str) -> bool:
    """Tell whether a field takes pictures of this type: most do not say, some name more types."""
    if media_type in TAKEN or reading.is_unknown:
        return True
    name = _TYPE_NAMES.get(media_type, re.escape(media_type.removeprefix("image/")))
    return re.search(rf"(?<![a-z]){name}(?![a-z])", reading.said.lower()) is not None


def _remarks(shown: str, facts: Facts, copy: Conversion | None) -> Iterator[tuple[str, str]]:
    named = media_type_of_name(shown)
    if named and named != facts.media_type:
        yield f"{facts.media_type} by its content, whatever its name says", shown
    if copy:
        longest = max(facts.look.width or 0, facts.look.height or 0)
        smaller = ", made smaller" if (copy.longest or longest) < longest else ""
        yield (
            f"submitted as a {copy.form.upper()} copy{smaller}; the original stays as it is",
            shown,
        )
    elif kind_of(facts.media_type) == "image" and facts.look.orientation != 1:
        yield "turned by its EXIF data; RunComfy may or may not honour that", shown


def _unreadable(where: str, shown: str, trouble: Trouble) -> Problem:
    match trouble:
        case Unreachable():
            return Problem(where, trouble.message, trouble.hint)
        case FileNotFoundError():
            return Problem(where, f"there is no file {shown}", "check the path and the source")
        case IsADirectoryError():
            return Problem(where, f"{shown} is a folder", "name a file in it")
        case PermissionError():
            return Problem(where, f"{shown} may not be read", "check the permissions of the file")
        case _:
            return Problem(where, f"{shown} cannot be read: {why_not(trouble)}")
