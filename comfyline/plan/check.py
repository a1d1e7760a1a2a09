"""Validate rendered jobs: inputs against the model's schema, media against what is there.

Every mistake of every job is known before the first upload.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

from comfyline.errors import ComfylineError, InputInvalid, Problem, Unreachable
from comfyline.files import why_not
from comfyline.job import (
    PENDING,
    CheckedJob,
    FileInfo,
    Job,
    Media,
    MediaKind,
    Preparation,
    takes_pending,
)
from comfyline.keys import job_key
from comfyline.media.convert import (
    CONVERTIBLE,
    Conversion,
    conversion_for,
    info_of_copy,
    too_many_pixels,
)
from comfyline.media.types import MOST_BYTES, SVG, TAKEN, kind_of, media_type_of_name
from comfyline.models.check import check_inputs, is_too_deep
from comfyline.models.dialect import (
    MediaField,
    Reading,
    explicit_media,
    media_fields,
    unmarked_media,
)
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.models.media_rules import RuleCheck, bounds, check_rules, nearest
from comfyline.redact import bare_origin
from comfyline.storage.fingerprints import ReadError
from comfyline.storage.inputs import Inputs
from comfyline.storage.places import folder_mistake
from comfyline.yaml.file import field_path

if TYPE_CHECKING:
    # `check` needs neither the ledger nor the client, and does not load them.
    from comfyline.services import Services

Found = Mapping[str, FileInfo | ReadError]
LookUp = Callable[[Iterable[str]], Awaitable[Found]]
"""Tells what media inputs are, or what is in the way: `Inputs.read_all`, or less than it."""

_KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
_NOT_CHECKED = "a rule that cannot be checked here; RunComfy applies it"
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


async def validate_job(job: Job, entry: ModelEntry, inputs: Inputs) -> CheckedJob:
    """Check everything about a job that costs nothing and give it its key.

    The estimate is left unknown. Raises `InputInvalid` with every mistake of the job; a
    placeholder, which takes what another step has not made yet, is one, too.
    """
    validation = await validate_pairs([(job, entry)], inputs.read_all)
    [checked] = validation.checked
    if checked is None:
        raise InputInvalid(validation.mistakes)
    if not checked.key:
        raise InputInvalid([Problem(job.source, "the output of another step does not exist yet")])
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
    return await validate_pairs(pairs, services.inputs.read_all)


async def validate_pairs(
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]], look_up: LookUp
) -> Validation:
    """Validate jobs whose models are known, or known to be missing and why.

    A medium that `look_up` tells nothing of is not checked, and its job gets no key, nor does a
    placeholder.
    """
    # In threads: ten thousand jobs take a second.
    media = await asyncio.to_thread(lambda: [_media_fields(job, entry) for job, entry in pairs])
    values = (one.value for fields in media for one in fields)
    found = await look_up(value for value in values if not value.startswith(PENDING))
    return await asyncio.to_thread(_validate_all, pairs, media, found)


def _media_fields(job: Job, entry: ModelEntry | ComfylineError) -> list[MediaField]:
    if isinstance(entry, ComfylineError):
        return []
    if isinstance(entry, UncheckedModel):
        readings = tuple(Reading(kind, is_unknown=True) for kind in _KINDS)
        return [MediaField(at, value, readings) for at, value in explicit_media(job.inputs)]
    asked = {name: value for name, value in job.inputs.items() if name not in entry.plain_fields}
    return media_fields(entry.input_schema, asked)


def _validate_all(
    pairs: Sequence[tuple[Job, ModelEntry | ComfylineError]],
    media: Sequence[Sequence[MediaField]],
    found: Found,
) -> Validation:
    shared = _Shared(found)
    checked: list[CheckedJob | None] = []
    mistakes: dict[Problem, None] = {}
    for (job, entry), fields in zip(pairs, media, strict=True):
        try:
            if isinstance(entry, ComfylineError):
                raise entry
            checked.append(_validate(job, entry, fields, shared))
        except ComfylineError as error:
            checked.append(None)
            here = Problem(job.source or job.label, error.message, error.hint)
            problems = error.problems if isinstance(error, InputInvalid) else [here]
            mistakes |= dict.fromkeys(problems)
    return Validation(tuple(checked), tuple(mistakes), tuple(shared.notes()))


def _validate(
    job: Job, entry: ModelEntry, fields: Sequence[MediaField], shared: "_Shared"
) -> CheckedJob:
    problems = check_inputs(entry, job.inputs)
    if isinstance(entry, UncheckedModel):
        message = "the model has no schema that declares this as media"
        unmarked = map(field_path, unmarked_media(job.inputs))
        problems += [Problem(at, message, "write @ before it") for at in unmarked]
    said = {problem.where for problem in problems}
    media: list[Media] = []
    is_whole = not takes_pending(job.inputs)
    for one in fields:
        if field_path(one.pointer) in said:
            continue
        if one.value.startswith(PENDING):
            problems += _check_pending(one)
        elif medium := shared.medium(job, one):
            problems += medium.problems
            media += [medium.accepted] if medium.accepted else []
        else:
            is_whole = False
    if mistake := shared.folder_mistake(job.placement.folder, job.placement.root):
        problems.append(Problem("output.to", mistake))
    key = ""
    try:
        key = _key(job, media) if is_whole else ""
    except InputInvalid as error:
        problems += error.problems
    if problems:
        raise InputInvalid(replace(one, where=_where(job, one.where)) for one in problems)
    return CheckedJob(job=job, key=key, media=tuple(media), estimate_usd=None)


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


def _check_pending(one: MediaField) -> list[Problem]:
    """Check what another step will make, of which its kind is all that may be known."""
    kind = one.value.removeprefix(PENDING).partition(":")[0]
    wanted = dict.fromkeys(reading.kind for reading in one.readings)
    if kind == "any" or kind in wanted:
        return []
    said = f"the other step makes {kind}, but this takes {' or '.join(wanted)}"
    return [Problem(field_path(one.pointer), said)]


@dataclass(slots=True)
class _Shared:
    """What is found of media and folders, each checked once for all jobs that share it."""

    found: Found
    folder_mistake: Callable[[str, str], str] = field(default_factory=lambda: cache(folder_mistake))
    _media: dict[object, "_CheckedMedium"] = field(default_factory=dict)

    def medium(self, job: Job, one: MediaField) -> "_CheckedMedium | None":
        """Check a medium; None if nothing is known of it."""
        facts = self.found.get(one.value)
        this = job.model_id, one.pointer, one.value, job.preparation
        if facts is not None and this not in self._media:
            self._media[this] = _check_medium(one, facts, job.preparation)
        return self._media.get(this)

    def notes(self) -> list[str]:
        """Say what is no mistake and worth a line, each thing once for all."""
        subjects: dict[str, dict[str, None]] = {}
        for one in self._media.values():
            for text, subject in one.remarks:
                subjects.setdefault(text, {})[subject] = None
        return [f"{_some(list(named))}: {text}" for text, named in subjects.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class _CheckedMedium:
    """A medium, or the problems that keep it from being one; and what is worth knowing of it.

    A remark is a text and its subject: the text is said once for many.
    """

    accepted: Media | None = None
    problems: Sequence[Problem] = ()
    remarks: Sequence[tuple[str, str]] = ()


def _check_medium(
    one: MediaField, facts: FileInfo | ReadError, preparation: Preparation
) -> _CheckedMedium:
    where, shown = field_path(one.pointer), bare_origin(one.value)
    if not isinstance(facts, FileInfo):
        return _CheckedMedium(problems=[Problem(where, *_unreadable(shown, facts))])
    fitting = [reading for reading in one.readings if reading.kind == kind_of(facts.media_type)]
    medium = _Medium(shown, facts, fitting, preparation)
    if mistake := medium.mistake(dict.fromkeys(reading.kind for reading in one.readings)):
        return _CheckedMedium(problems=[Problem(where, *mistake)])
    rules = medium.check_rules()
    name = ".".join(key for key in one.pointer if isinstance(key, str))
    unknown = [(_NOT_CHECKED, f"`{rule}` of `{name}`") for rule in rules.unknown]
    remarks = [*medium.remarks(), *unknown]
    if rules.broken:
        hint = _DOWNSCALE if medium.would_fit_smaller() else ""
        problems = [Problem(where, f"{shown}: {said}", hint) for said in rules.broken]
        return _CheckedMedium(problems=problems, remarks=remarks)
    accepted = Media(
        pointer=one.pointer,
        origin=one.value,
        kind=fitting[0].kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
        conversion=str(medium.copy or ""),
    )
    return _CheckedMedium(accepted, remarks=remarks)


def _unreadable(shown: str, trouble: ReadError) -> tuple[str, str]:
    match trouble:
        case Unreachable():
            return trouble.message, trouble.hint
        case FileNotFoundError():
            return f"there is no file {shown}", "check the path and the source"
        case IsADirectoryError():
            return f"{shown} is a folder", "name a file in it"
        case PermissionError():
            return f"{shown} is not readable", "check the permissions of the file"
        case _:
            return f"{shown} cannot be read: {why_not(trouble)}", ""


@dataclass(frozen=True)
class _Medium:
    """A medium as it would be submitted: itself, or the copy that `preparation` allows for.

    `shown` is its address for people, `fitting` are the ways in which its field takes its kind.
    """

    shown: str
    facts: FileInfo
    fitting: Sequence[Reading]
    preparation: Preparation

    @cached_property
    def copy(self) -> Conversion | None:
        """The copy that is submitted in its place, if any."""
        look = self.facts.info
        if not self.fitting or self.fitting[0].kind != "image" or look.flaw:
            return None
        most = bounds(self.fitting[0].validations)
        return conversion_for(look, self.facts.bytes, self.preparation, most)

    def check_rules(self) -> RuleCheck:
        """Check what would be submitted; a copy's size is known only as far as it is bounded."""
        look, size = self.facts.info, self.facts.bytes
        if self.copy:
            look = info_of_copy(look, self.copy)
            size = min(size, self.copy.kilobytes * 1024) if self.copy.kilobytes else size
        return nearest(check_rules(each.validations, size, look) for each in self.fitting)

    def would_fit_smaller(self) -> bool:
        """Tell whether a smaller copy, which nobody asked for, would be within the rules."""
        smaller = replace(self, preparation=replace(self.preparation, downscale=True))
        is_asked = self.preparation.downscale or smaller.copy is None
        return not is_asked and not smaller.check_rules().broken

    def mistake(self, wanted: Collection[MediaKind]) -> tuple[str, str] | None:
        """Say why it can be submitted to no model, or not in this field, and what to do."""
        facts, shown = self.facts, self.shown
        kind = kind_of(facts.media_type)
        limit = max(MOST_BYTES[one] for one in wanted if kind not in wanted or one == kind)
        if not facts.bytes:
            return f"{shown} is empty", ""
        if facts.bytes > limit and not (self.copy and self.copy.kilobytes):
            size = math.ceil(facts.bytes * 10 / 2**20) / 10
            can_be_smaller = facts.media_type in CONVERTIBLE and facts.info.width is not None
            said = f"{shown} has {size:.1f} MB; RunComfy takes at most {limit // 2**20} MB"
            return said, _DOWNSCALE if can_be_smaller else ""
        if not self.fitting:
            what, hint = facts.media_type, "by its content, regardless of its name"
            if what == SVG:
                what, hint = "an SVG drawing", "export it as PNG or JPEG"
            return f"{shown} is {what or 'of unknown type'}, not {' or '.join(wanted)}", hint
        if facts.info.flaw:
            return f"{shown} {facts.info.flaw}", "replace the file with a complete one"
        if self.copy:
            flaw = too_many_pixels(facts.info, self.copy)
            return (
                (f"{shown} {flaw}", "write `downscale: true` under the step as well")
                if flaw
                else None
            )
        return self._untaken_format()

    def _untaken_format(self) -> tuple[str, str] | None:
        media_type = self.facts.media_type
        if self.fitting[0].kind != "image" or any(_takes(one, media_type) for one in self.fitting):
            return None
        said = f"{self.shown} is {media_type}, but models take JPEG, PNG, WebP and GIF"
        if media_type in CONVERTIBLE:
            return said, "write `convert: jpeg` under the step to submit a copy"
        return said, "it cannot be converted here; export it as PNG or JPEG"

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Say what is no mistake and worth knowing."""
        media_type, look = self.facts.media_type, self.facts.info
        if media_type_of_name(self.shown) not in {"", media_type}:
            yield f"{media_type} by its content, regardless of its name", self.shown
        if self.copy:
            longest = max(look.width or 0, look.height or 0)
            smaller = ", made smaller" if (self.copy.longest or longest) < longest else ""
            form = self.copy.form.upper()
            yield f"submitted as a {form} copy{smaller}; the original stays as it is", self.shown
        elif kind_of(media_type) == "image" and look.orientation != 1:
            yield "rotated by its EXIF data, which RunComfy may ignore", self.shown


def _takes(reading: Reading, media_type: str) -> bool:
    """Tell whether a field takes pictures of this type: most do not say, some name more types."""
    if media_type in TAKEN or reading.is_unknown:
        return True
    name = _TYPE_NAMES.get(media_type, re.escape(media_type.removeprefix("image/")))
    return re.search(rf"(?<![a-z]){name}(?![a-z])", reading.said.lower()) is not None
