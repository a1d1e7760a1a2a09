"""One media input against what is really there: a medium, or why it cannot be one."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from comfyline.broken_connections import why_not
from comfyline.errors import Problem, Unreachable
from comfyline.job import PENDING, Media, Preparation
from comfyline.media import MOST_BYTES, SVG, TAKEN, MediaInfo, kind_of, media_type_of_name
from comfyline.media.convert import (
    CONVERTIBLE,
    Conversion,
    conversion_for,
    info_of_copy,
    too_many_pixels,
)
from comfyline.models.dialect import MediaField, Reading
from comfyline.models.media_rules import bounds, check_rules, nearest
from comfyline.redact import bare_origin
from comfyline.storage.facts import Facts, Trouble


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that is no mistake and worth knowing: `subject: text`, said once for many."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class JudgedMedium:
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
) -> JudgedMedium:
    """Judges one media input. `where` is its field as people write it.

    What counts is what would be submitted: the copy, where `preparation` allows for one that is
    needed.
    """
    shown = bare_origin(field.value)
    if not isinstance(facts, Facts):
        return JudgedMedium(problems=(_trouble(where, shown, facts),))
    kind = kind_of(facts.media_type)
    fitting = [reading for reading in field.readings if reading.kind == kind]
    copy = _copy(fitting, facts, preparation)
    if problem := _unfit(where, field, shown, facts, fitting, copy):
        return JudgedMedium(problems=(problem,))
    look = info_of_copy(facts.look, copy) if copy else facts.look
    found = nearest(check_rules(one.validations, _bytes(facts, copy), look) for one in fitting)
    remarks = (*_remarks(shown, facts, copy), *_not_checked(field, found.unknown))
    if found.broken:
        hint = _DOWNSCALE if _would_fit_smaller(fitting, facts, preparation) else ""
        problems = tuple(Problem(where, f"{shown}: {sentence}", hint) for sentence in found.broken)
        return JudgedMedium(problems=problems, remarks=remarks)
    medium = Media(
        pointer=field.pointer,
        origin=field.value,
        kind=fitting[0].kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
        conversion=str(copy or ""),
    )
    return JudgedMedium(medium, remarks=remarks)


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
    """The size to judge by: what a copy will have is known only as far as it is bounded."""
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
