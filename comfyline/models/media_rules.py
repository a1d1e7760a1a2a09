"""The `validations` of media fields: what a model asks of a picture, a video or a sound itself.

A rule is named `<quantity><operator>`, as in `file_size_mb<` or `width/height>`. Of the names only
a few have been seen, so others are read by the same pattern; what is not understood is no reason
to refuse a job, and no reason to stay silent: `Findings.unknown` tells of it.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfyline.media import MediaInfo
from comfyline.media.convert import Bounds

_OPERATORS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "<=": (operator.le, "at most"),
    "≤": (operator.le, "at most"),
    ">=": (operator.ge, "at least"),
    "≥": (operator.ge, "at least"),
    "==": (operator.eq, "exactly"),
    "!=": (operator.ne, "other than"),
    "<": (operator.lt, "less than"),
    ">": (operator.gt, "more than"),
    "=": (operator.eq, "exactly"),
}
_RULE = re.compile(r"(?P<quantity>[^<>=!≤≥]+)(?P<operator><=|>=|==|!=|[<>=≤≥])")
_TWO = re.compile(r"([a-z_]+)([*/+])([a-z_]+)")
_COMBINED: Mapping[str, Callable[[float, float], float]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "+": operator.add,
}
_NAMES: Mapping[str, Sequence[str]] = {
    "megabytes": ("file_size_mb", "size_mb", "mb"),
    "kilobytes": ("file_size_kb", "size_kb", "kb"),
    "gigabytes": ("file_size_gb", "size_gb"),
    "bytes": ("file_size", "file_size_bytes", "file_size_b", "size_bytes", "bytes"),
    "width": ("width", "width_pixels", "width_px", "image_width", "video_width"),
    "height": ("height", "height_pixels", "height_px", "image_height", "video_height"),
    "pixels": ("pixels", "total_pixels", "num_pixels", "area"),
    "megapixels": ("megapixels", "mp", "total_megapixels"),
    "longest": ("max_side", "max_side_pixels", "long_side", "longest_side"),
}
"""The names that rules give to what a picture can have too much of."""
_UNITS: Mapping[str, tuple[str, float]] = {
    "megabytes": ("bytes", 2**20),
    "kilobytes": ("bytes", 2**10),
    "gigabytes": ("bytes", 2**30),
    "megapixels": ("pixels", 1e6),
}
_BOUNDED: Mapping[str, tuple[str, float]] = {
    name: _UNITS.get(measure, (measure, 1)) for measure, names in _NAMES.items() for name in names
} | {"width*height": ("pixels", 1), "width_pixels*height_pixels": ("pixels", 1)}
"""The bound that each name stands for, and how many of its units one is."""
_RATIO = re.compile(r"([0-9.]+)[:/]([0-9.]+)")
_LONGEST = 200
_NEAR = 1e-9
_ALMOST = 0.01


@dataclass(frozen=True, slots=True)
class Findings:
    """What the rules say of one medium: `broken` as sentences, `unknown` as the rules' names.

    A rule is unknown as well when the file does not show what it asks for.
    """

    broken: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def judge_medium(validations: Any, size: int, look: MediaInfo) -> Findings:
    """Holds a medium against a field's `validations`. `size` is in bytes. Raises nothing."""
    listed = validations if isinstance(validations, list | tuple) else ()
    if not listed:
        return Findings()
    measures = _measures(size, look)
    broken: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for validation in (one for one in listed if isinstance(one, Mapping)):
        rule = _rule(validation)
        value = _value(rule.quantity, measures) if rule else None
        if rule is None or value is None:
            unknown[_name(validation)] = None
            continue
        fits, words = _OPERATORS[rule.operator]
        is_near = "=" in rule.operator and math.isclose(value, rule.limit, rel_tol=_NEAR)
        if fits(value, rule.limit) or (is_near and rule.operator != "!="):
            continue
        said = validation.get("validation_error")
        sentence = said.strip().rstrip(".")[:_LONGEST] if isinstance(said, str) else ""
        sentence = sentence or f"{rule.quantity} has to be {words} {rule.limit:g}"
        broken[f"{sentence} (it has {_shown(rule.quantity, value, look)})"] = None
    return Findings(tuple(broken), tuple(unknown))


def bounds(validations: Any) -> Bounds:
    """The most that the rules allow for a picture, of those rules that are understood."""
    most: dict[str, int] = {}
    for validation in validations if isinstance(validations, list | tuple) else ():
        rule = _rule(validation) if isinstance(validation, Mapping) else None
        if rule is None or rule.operator not in {"<", "<=", "≤"} or rule.quantity not in _BOUNDED:
            continue
        name, unit = _BOUNDED[rule.quantity]
        limit = rule.limit * unit
        allowed = math.ceil(limit) - 1 if rule.operator == "<" else math.floor(limit)
        most[name] = min(allowed, most.get(name, allowed))
    if "bytes" in most:
        most["bytes"] = min(most["bytes"], Bounds().bytes)
    return Bounds(**{name: limit for name, limit in most.items() if limit > 0})


def merge(findings: Iterable[Findings]) -> Findings:
    """Of several alternatives, what the one says that is nearest to fitting."""
    return min(findings, key=lambda one: len(one.broken), default=Findings())


@dataclass(frozen=True, slots=True)
class _Rule:
    quantity: str
    operator: str
    limit: float


def _name(validation: Mapping[str, Any]) -> str:
    written = validation.get("validation_rule")
    return written[:_LONGEST] if isinstance(written, str) else "a rule without a name"


def _rule(validation: Mapping[str, Any]) -> _Rule | None:
    """A rule taken apart; None for one that is not understood."""
    match = _RULE.fullmatch(re.sub(r"\s", "", _name(validation).lower()))
    limit = _number(validation.get("validation_value"))
    return None if match is None or limit is None else _Rule(match[1], match[2], limit)


def _measures(size: int, look: MediaInfo) -> dict[str, float]:
    """Every quantity by every name that a rule may give it."""
    width, height = look.width, look.height
    named: list[tuple[Sequence[str], float | None]] = [
        (_NAMES["megabytes"], size / 2**20),
        (_NAMES["kilobytes"], size / 2**10),
        (_NAMES["gigabytes"], size / 2**30),
        (_NAMES["bytes"], size),
        (_NAMES["width"], width),
        (_NAMES["height"], height),
        (("duration", "duration_seconds", "duration_s", "duration_sec"), look.duration),
        (("seconds", "video_duration", "audio_duration", "length_seconds"), look.duration),
        (("fps", "frame_rate", "framerate", "frames_per_second"), look.fps),
    ]
    if width and height:
        named += [
            (_NAMES["pixels"], width * height),
            (_NAMES["megapixels"], width * height / 1e6),
            (("aspect_ratio", "ratio"), width / height),
            (("min_side", "min_side_pixels", "short_side", "shortest_side"), min(width, height)),
            (_NAMES["longest"], max(width, height)),
        ]
    if look.duration is not None:
        named.append((("duration_ms", "duration_milliseconds"), look.duration * 1000))
    return {name: float(value) for names, value in named if value is not None for name in names}


def _value(quantity: str, measures: Mapping[str, float]) -> float | None:
    if quantity in measures:
        return measures[quantity]
    two = _TWO.fullmatch(quantity)
    if two is None or two[1] not in measures or two[3] not in measures:
        return None
    if two[2] == "/" and not measures[two[3]]:
        return None
    return _COMBINED[two[2]](measures[two[1]], measures[two[3]])


def _number(value: Any) -> float | None:
    """A limit, also one that is written as text: `30`, `16:9`, `1/16`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        ratio = _RATIO.fullmatch(value.strip()) if isinstance(value, str) else None
        number = float(ratio[1]) / float(ratio[2]) if ratio else float(value)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _shown(quantity: str, value: float, look: MediaInfo) -> str:
    """The measured value as people write it."""
    if re.search(r"size|bytes|^[kmg]b$", quantity):
        unit = re.search(r"[kmg]b$", quantity)
        return f"{_precise(value)} {unit[0].upper() if unit else 'bytes'}"
    if re.search(r"duration|seconds", quantity) and look.duration is not None:
        return f"{_precise(look.duration)} seconds"
    if re.search(r"fps|frame", quantity):
        return f"{_precise(value)} frames a second"
    pixels = f"{look.width} × {look.height} pixels"
    return f"{pixels}, a ratio of {value:.4g}" if "/" in quantity or "ratio" in quantity else pixels


def _precise(value: float) -> str:
    """With as many digits as tell it from a whole number: 30.0004 is more than 30."""
    is_almost_whole = abs(value - round(value)) < _ALMOST
    return f"{value:.9g}" if is_almost_whole else f"{value:.2f}".rstrip("0").rstrip(".")
