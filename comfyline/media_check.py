"""One media input against what is really there: a medium, or why it cannot be one."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from comfyline.addresses import bare_origin
from comfyline.errors import Problem, Unreachable
from comfyline.job import Media, MediaKind
from comfyline.media import MOST_BYTES, kind_of, media_type_of_name
from comfyline.models.dialect import MediaField
from comfyline.models.validations import judge_medium, merge
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


def check_medium(where: str, field: MediaField, facts: Facts | Trouble) -> JudgedMedium:
    """Judges one media input. `where` is its field as people write it."""
    shown = bare_origin(field.value)
    if not isinstance(facts, Facts):
        return JudgedMedium(problems=(_trouble(where, shown, facts),))
    if not facts.bytes:
        return JudgedMedium(problems=(Problem(where, f"{shown} is empty"),))
    kind = kind_of(facts.media_type)
    fitting = [reading for reading in field.readings if reading.kind == kind]
    if problem := _size(where, field, shown, facts, kind) or (
        None if fitting else _other_kind(where, field, shown, facts)
    ):
        return JudgedMedium(problems=(problem,))
    if facts.look.flaw:
        hint = "replace the file by a whole one"
        return JudgedMedium(problems=(Problem(where, f"{shown} {facts.look.flaw}", hint),))
    found = merge(judge_medium(one.validations, facts.bytes, facts.look) for one in fitting)
    remarks = (*_remarks(shown, facts), *_not_checked(field, found.unknown))
    if found.broken:
        problems = tuple(Problem(where, f"{shown}: {sentence}") for sentence in found.broken)
        return JudgedMedium(problems=problems, remarks=remarks)
    medium = Media(
        pointer=field.pointer,
        origin=field.value,
        kind=fitting[0].kind,
        sha256=facts.sha256,
        bytes=facts.bytes,
        media_type=facts.media_type,
    )
    return JudgedMedium(medium, remarks=remarks)


def _size(
    where: str, field: MediaField, shown: str, facts: Facts, kind: MediaKind | None
) -> Problem | None:
    taken = {reading.kind for reading in field.readings}
    limit = max(MOST_BYTES[one] for one in (taken & {kind} or taken))
    if facts.bytes <= limit:
        return None
    size, most = math.ceil(facts.bytes * 10 / 2**20) / 10, limit // 2**20
    return Problem(where, f"{shown} has {size:.1f} MB; RunComfy takes at most {most} MB")


def _other_kind(where: str, field: MediaField, shown: str, facts: Facts) -> Problem:
    wanted = " or ".join(dict.fromkeys(reading.kind for reading in field.readings))
    is_what = facts.media_type or "no picture, video or sound that is known"
    hint = "by its content, whatever its name says"
    return Problem(where, f"{shown} is {is_what}, not {wanted}", hint)


def _remarks(shown: str, facts: Facts) -> Iterator[Remark]:
    named = media_type_of_name(shown)
    if named and named != facts.media_type:
        yield Remark(shown, f"{facts.media_type} by its content, whatever its name says")
    if kind_of(facts.media_type) == "image" and facts.look.orientation != 1:
        yield Remark(shown, "turned by its EXIF data; RunComfy may or may not honour that")


def _not_checked(field: MediaField, rules: Iterable[str]) -> Iterator[Remark]:
    name = ".".join(key for key in field.pointer if isinstance(key, str))
    for rule in rules:
        text = "a rule that cannot be checked here; RunComfy judges by it"
        yield Remark(f"`{rule}` of `{name}`", text)


def _trouble(where: str, shown: str, trouble: Trouble) -> Problem:
    if isinstance(trouble, Unreachable):
        return Problem(where, trouble.message, trouble.hint)
    if isinstance(trouble, FileNotFoundError):
        return Problem(where, f"there is no file {shown}", "check the path and the source")
    if isinstance(trouble, IsADirectoryError):
        return Problem(where, f"{shown} is a folder", "name a file in it")
    if isinstance(trouble, PermissionError):
        return Problem(where, f"{shown} may not be read", "check the permissions of the file")
    reason = trouble.strerror or type(trouble).__name__
    return Problem(where, f"{shown} cannot be read: {reason}")
