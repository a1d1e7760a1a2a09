"""Validate rendered jobs: inputs against the model's schema, media against what is there.

Every mistake of every job is known before the first upload.
"""

import asyncio
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from comfyline.broken_connections import why_not
from comfyline.errors import ComfylineError, InputInvalid, Problem, Unreachable
from comfyline.job import (
    PENDING,
    CheckedJob,
    Job,
    Media,
    MediaKind,
    Placement,
    Pointer,
    Preparation,
    takes_pending,
)
from comfyline.keys import job_key
from comfyline.media import MOST_BYTES, SVG, TAKEN, MediaInfo, kind_of, media_type_of_name
from comfyline.media.convert import (
    CONVERTIBLE,
    Conversion,
    conversion_for,
    info_of_copy,
    too_many_pixels,
)
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
from comfyline.models.price import estimate
from comfyline.redact import bare_origin
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.origins import Origins
from comfyline.storage.place import folder_mistake

if TYPE_CHECKING:
    # `check` needs neither the ledger nor the client, and does not load them.
    from comfyline.services import Services


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that is no mistake and worth knowing: `subject: text`, said once for many."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class MediumCheck:
    """A medium, or the problems that keep it from being one; and what is worth knowing of it."""

    medium: Media | None = None
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Remark, ...] = ()


NOT_CHECKED = "a rule that cannot be checked here; RunComfy judges by it"
"""What is said of a rule that is passed over."""

_AS_IT_IS = Preparation()
_DOWNSCALE = "write `downscale: true` under the step to submit a smaller copy"
_TYPE_NAMES = {"image/jpeg": "jpe?g", "image/tiff": "tiff?", "image/heic": "hei[cf]"}
"""What people call a type where that is not its plain name."""


def check_medium(
    where: str, field: MediaField, facts: Facts | Trouble, preparation: Preparation = _AS_IT_IS
) -> MediumCheck:
    """Judges one media input. `where` is its field as people write it.

    What counts is what would be submitted: the copy, where `preparation` allows for one that is
    needed.
    """
    shown = bare_origin(field.value)
    if not isinstance(facts, Facts):
        return MediumCheck(problems=(_trouble(where, shown, facts),))
    kind = kind_of(facts.media_type)
    fitting = [reading for reading in field.readings if reading.kind == kind]
    copy = _copy(fitting, facts, preparation)
    if problem := _unfit(where, field, shown, facts, fitting, copy):
        return MediumCheck(problems=(problem,))
    look = info_of_copy(facts.look, copy) if copy else facts.look
    found = nearest(check_rules(one.validations, _bytes(facts, copy), look) for one in fitting)
    remarks = (*_remarks(shown, facts, copy), *_not_checked(field, found.unknown))
    if found.broken:
        hint = _DOWNSCALE if _would_fit_smaller(fitting, facts, preparation) else ""
        problems = tuple(Problem(where, f"{shown}: {sentence}", hint) for sentence in found.broken)
        return MediumCheck(problems=problems, remarks=remarks)
    medium = Media(
        pointer=field.pointer,
        origin=field.value,
        kind=fitting[0].kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
        conversion=str(copy or ""),
    )
    return MediumCheck(medium, remarks=remarks)


def check_pending(where: str, field: MediaField) -> list[Problem]:
    """Judges what another step will make, of which its kind is all that may be known."""
    kind = field.value.removeprefix(PENDING).partition(":")[0]
    wanted = dict.fromkeys(reading.kind for reading in field.readings)
    if kind == "any" or kind in wanted:
        return []
    message = f"the other step makes {kind}, and this takes {' or '.join(wanted)}"
    return [Problem(where, message)]


def _unfit(
    where: str,
    field: MediaField,
    shown: str,
    facts: Facts,
    fitting: list[Reading],
    copy: Conversion | None,
) -> Problem | None:
    """Why a medium can be submitted to no model, or not to one that has only these readings."""
    if not facts.bytes:
        return Problem(where, f"{shown} is empty")
    if problem := _size(where, field, shown, facts, copy):
        return problem
    if not fitting:
        return _other_kind(where, field, shown, facts)
    if facts.look.flaw:
        return Problem(where, f"{shown} {facts.look.flaw}", "replace the file by a whole one")
    return _not_taken(where, shown, fitting, facts, copy)


def _copy(fitting: list[Reading], facts: Facts, preparation: Preparation) -> Conversion | None:
    """The copy that is submitted in the place of the medium; None when it goes as it is."""
    if not fitting or fitting[0].kind != "image" or facts.look.flaw:
        return None
    return conversion_for(facts.look, facts.bytes, preparation, bounds(fitting[0].validations))


def _would_fit_smaller(fitting: list[Reading], facts: Facts, preparation: Preparation) -> bool:
    """Whether a smaller copy, which nobody has asked for yet, would be within the model's rules."""
    copy = _copy(fitting, facts, replace(preparation, downscale=True))
    if copy is None or preparation.downscale:
        return False
    look, size = info_of_copy(facts.look, copy), _bytes(facts, copy)
    return any(not check_rules(one.validations, size, look).broken for one in fitting)


def _bytes(facts: Facts, copy: Conversion | None) -> int:
    """The size to validate by: what a copy will have is known only as far as it is bounded."""
    return min(facts.bytes, copy.kilobytes * 1024) if copy and copy.kilobytes else facts.bytes


def _size(
    where: str, field: MediaField, shown: str, facts: Facts, copy: Conversion | None
) -> Problem | None:
    taken = {reading.kind for reading in field.readings}
    limit = max(MOST_BYTES[one] for one in (taken & {kind_of(facts.media_type)} or taken))
    if facts.bytes <= limit or (copy and copy.kilobytes):
        return None
    size, most = math.ceil(facts.bytes * 10 / 2**20) / 10, limit // 2**20
    can_be_smaller = facts.media_type in CONVERTIBLE and facts.look.width is not None
    hint = _DOWNSCALE if can_be_smaller else ""
    return Problem(where, f"{shown} has {size:.1f} MB; RunComfy takes at most {most} MB", hint)


def _not_taken(
    where: str, shown: str, fitting: list[Reading], facts: Facts, copy: Conversion | None
) -> Problem | None:
    """Why a picture cannot be submitted in the form in which it is."""
    media_type = facts.media_type
    if copy:
        flaw = too_many_pixels(facts.look, copy)
        hint = "write `downscale: true` under the step as well"
        return Problem(where, f"{shown} {flaw}", hint) if flaw else None
    if fitting[0].kind != "image" or any(_takes(one, media_type) for one in fitting):
        return None
    message = f"{shown} is {media_type}, and models take JPEG, PNG, WebP and GIF"
    if media_type in CONVERTIBLE:
        hint = "write `convert: jpeg` under the step to submit a copy"
        return Problem(where, message, hint)
    return Problem(where, message, "it cannot be converted here: export it as PNG or JPEG")


def _takes(reading: Reading, media_type: str) -> bool:
    """Whether a model takes pictures of this type: most do not say, some name further ones."""
    if media_type in TAKEN or reading.is_unknown:
        return True
    plain = media_type.removeprefix("image/")
    name = _TYPE_NAMES.get(media_type, re.escape(plain))
    return re.search(rf"(?<![a-z]){name}(?![a-z])", reading.said.lower()) is not None


def _other_kind(where: str, field: MediaField, shown: str, facts: Facts) -> Problem:
    wanted = " or ".join(dict.fromkeys(reading.kind for reading in field.readings))
    if facts.media_type == SVG:
        message = f"{shown} is an SVG drawing, not {wanted}"
        return Problem(where, message, "export it as PNG or JPEG")
    is_what = facts.media_type or "no picture, video or sound that is known"
    hint = "by its content, whatever its name says"
    return Problem(where, f"{shown} is {is_what}, not {wanted}", hint)


def _remarks(shown: str, facts: Facts, copy: Conversion | None) -> Iterator[Remark]:
    named = media_type_of_name(shown)
    if named and named != facts.media_type:
        yield Remark(shown, f"{facts.media_type} by its content, whatever its name says")
    if copy:
        what = f"a {copy.form.upper()} copy" + ", made smaller" * _is_smaller(facts.look, copy)
        yield Remark(shown, f"submitted as {what}; the original stays as it is")
    elif kind_of(facts.media_type) == "image" and facts.look.orientation != 1:
        yield Remark(shown, "turned by its EXIF data; RunComfy may or may not honour that")


def _is_smaller(look: MediaInfo, copy: Conversion) -> bool:
    return copy.longest is not None and copy.longest < max(look.width or 0, look.height or 0)


def _not_checked(field: MediaField, rules: Iterable[str]) -> Iterator[Remark]:
    name = ".".join(key for key in field.pointer if isinstance(key, str))
    for rule in rules:
        yield Remark(f"`{rule}` of `{name}`", NOT_CHECKED)


def _trouble(where: str, shown: str, trouble: Trouble) -> Problem:
    if isinstance(trouble, Unreachable):
        return Problem(where, trouble.message, trouble.hint)
    if isinstance(trouble, FileNotFoundError):
        return Problem(where, f"there is no file {shown}", "check the path and the source")
    if isinstance(trouble, IsADirectoryError):
        return Problem(where, f"{shown} is a folder", "name a file in it")
    if isinstance(trouble, PermissionError):
        return Problem(where, f"{shown} may not be read", "check the permissions of the file")
    reason = why_not(trouble)
    return Problem(where, f"{shown} cannot be read: {reason}")


_NAMED = 3
"""How many of those that a note is about are named in it."""


class MediaChecks:
    """Validation on media from their facts, and on output folders. Not thread-safe."""

    def __init__(self, facts: Mapping[str, Facts | Trouble]) -> None:
        self._facts = facts
        self._media: dict[tuple[str, Pointer, str, Preparation], MediumCheck] = {}
        self._folders: dict[tuple[str, str], str] = {}
        self._patterns: dict[Remark, None] = {}

    def medium(self, job: Job, field: MediaField) -> MediumCheck | None:
        """The verdict on a medium in one place of a model's inputs; None without its facts."""
        facts = self._facts.get(field.value)
        if facts is None:
            return None
        this = job.model_id, field.pointer, field.value, job.preparation
        if (known := self._media.get(this)) is None:
            known = check_medium(field_path(field.pointer), field, facts, job.preparation)
            self._media[this] = known
        return known

    def patterns(self, entry: ModelEntry) -> None:
        """Takes down which patterns of a model nobody holds its inputs against."""
        for pattern in entry.unchecked_patterns:
            subject = f"the pattern `{pattern}` of {entry.model_id}"
            self._patterns[Remark(subject, NOT_CHECKED)] = None

    def folder(self, placement: Placement) -> str:
        """What is wrong with the folder for a job's outputs; empty for nothing."""
        this = placement.folder, placement.root
        if (known := self._folders.get(this)) is None:
            known = self._folders[this] = folder_mistake(*this)
        return known

    def notes(self) -> list[str]:
        """What is no mistake and worth a line, each thing said once for all."""
        subjects: dict[str, dict[str, None]] = {}
        for remarks in (self._patterns, *(judged.remarks for judged in self._media.values())):
            for remark in remarks:
                subjects.setdefault(remark.text, {})[remark.subject] = None
        return [f"{_some(list(named))}: {text}" for text, named in subjects.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")


async def validate_job(job: Job, entry: ModelEntry, origins: Origins) -> CheckedJob:
    """Checks everything about a job that costs nothing and gives it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job: fields
    against the model's schema, media against what is really there. A placeholder is one, too.
    """
    subject = ModelJob.of(job, entry)
    checked = validate(subject, MediaChecks(await origins.look(subject.origins)))
    if not checked.key:
        raise InputInvalid([Problem(job.source, "what another step makes is not there yet")])
    return checked


@dataclass(frozen=True, slots=True)
class ModelJob:
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


def validate(subject: ModelJob, found: MediaChecks) -> CheckedJob:
    """The same as `validate_job` for media that have been looked at already; waits for nothing.

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


Verdict = CheckedJob | ComfylineError


class Looking(Protocol):
    """Who looks at media inputs: `comfyline.storage.origins.Origins`, or less than it."""

    async def look(self, origins: Iterable[str], /) -> dict[str, Facts | Trouble]:
        """The facts of media inputs, or for each what is in the way. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The jobs in their order: each in its checked form, None for one with mistakes.

    `mistakes` are those of all jobs, the same one said once; `notes` are sentences about what is
    no mistake and worth knowing.
    """

    checked: tuple[CheckedJob | None, ...]
    mistakes: tuple[Problem, ...]
    notes: tuple[str, ...]


async def validate_jobs(jobs: Sequence[Job], services: "Services") -> Validation:
    """The verdict that the stage `validate` would give on each job. Spends and writes nothing."""
    entries: dict[str, ModelEntry | ComfylineError] = {}
    for model_id in dict.fromkeys(job.model_id for job in jobs):
        try:
            entries[model_id] = await services.catalogue.entry(model_id)
        except ComfylineError as error:
            entries[model_id] = error
    return await validate_pairs([(job, entries[job.model_id]) for job in jobs], services.origins)


async def validate_pairs(
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]], origins: Looking
) -> Validation:
    """The same for jobs whose models are known, or known to be missing and why.

    A medium that `origins` does not look at is not judged, and its job gets no key.
    """
    # In threads: ten thousand jobs take a second.
    subjects = await asyncio.to_thread(lambda: [_subject(*pair) for pair in pairs])
    wanted = (origin for one in subjects if isinstance(one, ModelJob) for origin in one.origins)
    found = MediaChecks(await origins.look(wanted))

    def judged() -> Validation:
        validation = [_verdict(one, found) for one in subjects]
        return Validation(
            checked=tuple(one if isinstance(one, CheckedJob) else None for one in validation),
            mistakes=_mistakes([job for job, _ in pairs], validation),
            notes=tuple(found.notes()),
        )

    return await asyncio.to_thread(judged)


def _subject(job: Job, entry: ModelEntry | ComfylineError) -> ModelJob | ComfylineError:
    return ModelJob.of(job, entry) if isinstance(entry, ModelEntry) else entry


def _verdict(subject: ModelJob | ComfylineError, found: MediaChecks) -> Verdict:
    if isinstance(subject, ComfylineError):
        return subject
    try:
        return validate(subject, found)
    except ComfylineError as error:
        return error


def _mistakes(jobs: Sequence[Job], validation: Sequence[Verdict]) -> tuple[Problem, ...]:
    found: dict[Problem, None] = {}
    for job, one in zip(jobs, validation, strict=True):
        if isinstance(one, InputInvalid):
            found |= dict.fromkeys(one.problems)
        elif isinstance(one, ComfylineError):
            found[Problem(job.source or job.label, one.message, one.hint)] = None
    return tuple(found)
