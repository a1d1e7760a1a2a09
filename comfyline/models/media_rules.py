"""Check a medium against the `validations` of a model's field.

A rule is named `<quantity><operator>`, as in `file_size_mb<` or `width/height>`. Of the names only
a few have been seen, so others are read by the same pattern; a rule that is not understood refuses
no job, and is named in `RuleCheck.unknown`.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from comfyline.job import MediaInfo
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
_RULE = re.compile(r"([^<>=!≤≥]+)(<=|>=|==|!=|[<>=≤≥])")
_TWO = re.compile(r"([a-z_]+)([*/+])([a-z_]+)")
_COMBINED: Mapping[str, Callable[[float, float], float]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "+": operator.add,
}
_QUANTITIES: Mapping[str, tuple[str, float]] = {
    "file_size_bytes": ("bytes", 1),
    "file_size_kb": ("bytes", 2**10),
    "file_size_mb": ("bytes", 2**20),
    "width": ("width", 1),
    "width_pixels": ("width", 1),
    "height": ("height", 1),
    "height_pixels": ("height", 1),
    "pixels": ("pixels", 1),
    "megapixels": ("pixels", 1e6),
    "max_side": ("longest", 1),
    "min_side": ("shortest", 1),
    "aspect_ratio": ("ratio", 1),
    "duration": ("seconds", 1),
    "duration_seconds": ("seconds", 1),
    "fps": ("fps", 1),
}
"""What each name measures, and how many of the measure's units one is."""
_BOUNDED = {"bytes", "width", "height", "longest", "pixels"}
_PIXELS = {"width*height", "height*width", "width_pixels*height_pixels"}
_RATIO = re.compile(r"([0-9.]+)[:/]([0-9.]+)")
_LONGEST = 200
_NEAR = 1e-9
_ALMOST = 0.01


@dataclass(frozen=True, slots=True)
class RuleCheck:
    """What the rules say of one medium: `broken` as sentences, `unknown` as the rules' names.

    A rule is unknown as well if the file does not show what it asks for.
    """

    broken: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def check_rules(validations: Any, size: int, info: MediaInfo) -> RuleCheck:
    """Check a medium of `size` bytes against a field's `validations`; raises nothing."""
    broken: dict[str, None] = {}
    unknown: dict[str, None] = {}
    measures = _measures(size, info) if validations else {}
    for validation in _rules(validations):
        rule = _parsed(validation)
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
        sentence = sentence or f"{rule.quantity} must be {words} {rule.limit:g}"
        broken[f"{sentence} (it has {_shown(rule.quantity, value, info)})"] = None
    return RuleCheck(tuple(broken), tuple(unknown))


def bounds(validations: Any) -> Bounds:
    """Return the most that the understood rules allow for a picture."""
    most = {"bytes": Bounds().bytes}
    for rule in filter(None, map(_parsed, _rules(validations))):
        is_area = rule.quantity in _PIXELS
        name, unit = ("pixels", 1.0) if is_area else _QUANTITIES.get(rule.quantity, ("", 1))
        if rule.operator in {"<", "<=", "≤"} and name in _BOUNDED:
            limit = rule.limit * unit
            allowed = math.ceil(limit) - 1 if rule.operator == "<" else math.floor(limit)
            if allowed > 0:
                most[name] = min(allowed, most.get(name, allowed))
    return Bounds(**most)


def nearest(checks: Iterable[RuleCheck]) -> RuleCheck:
    """Choose the alternative that is nearest to fitting."""
    return min(checks, key=lambda one: len(one.broken), default=RuleCheck())


@dataclass(frozen=True, slots=True)
class _Rule:
    quantity: str
    operator: str
    limit: float


def _rules(validations: Any) -> list[Mapping[str, Any]]:
    listed = validations if isinstance(validations, list | tuple) else ()
    return [one for one in listed if isinstance(one, Mapping)]


def _name(validation: Mapping[str, Any]) -> str:
    written = validation.get("validation_rule")
    return written[:_LONGEST] if isinstance(written, str) else "a rule without a name"


def _parsed(validation: Mapping[str, Any]) -> _Rule | None:
    match = _RULE.fullmatch(re.sub(r"\s", "", _name(validation).lower()))
    limit = _number(validation.get("validation_value"))
    return None if match is None or limit is None else _Rule(match[1], match[2], limit)


def _measures(size: int, info: MediaInfo) -> dict[str, float]:
    known: dict[str, float | None] = {"bytes": size, "seconds": info.duration, "fps": info.fps}
    known |= {"width": info.width, "height": info.height}
    if (width := info.width) and (height := info.height):
        known |= {"pixels": width * height, "ratio": width / height}
        known |= {"longest": max(width, height), "shortest": min(width, height)}
    return {name: float(value) for name, value in known.items() if value is not None}


def _value(quantity: str, measures: Mapping[str, float]) -> float | None:
    if two := _TWO.fullmatch(quantity):
        first, second = _value(two[1], measures), _value(two[3], measures)
        if first is None or second is None or (two[2] == "/" and not second):
            return None
        return _COMBINED[two[2]](first, second)
    name, unit = _QUANTITIES.get(quantity, ("", 1))
    return measures[name] / unit if name in measures else None


def _number(value: Any) -> float | None:
    """Read a limit, which may be written as text: `30`, `16:9`, `1/16`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        ratio = _RATIO.fullmatch(value.strip()) if isinstance(value, str) else None
        number = float(ratio[1]) / float(ratio[2]) if ratio else float(value)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _shown(quantity: str, value: float, info: MediaInfo) -> str:
    """Write a measured value as people do."""
    name, unit = _QUANTITIES.get(quantity, ("", 1))
    if name == "bytes":
        prefix = {2**10: "KB", 2**20: "MB", 2**30: "GB"}.get(int(unit), "bytes")
        return f"{_precise(value)} {prefix}"
    if name == "seconds":
        return f"{_precise(info.duration or 0)} seconds"
    if name == "fps":
        return f"{_precise(value)} frames a second"
    pixels = f"{info.width} × {info.height} pixels"
    return f"{pixels}, a ratio of {value:.4g}" if "/" in quantity or name == "ratio" else pixels


def _precise(value: float) -> str:
    """Write as many digits as tell a value from a whole number: 30.0004 is more than 30."""
    is_almost_whole = abs(value - round(value)) < _ALMOST
    return f"{value:.9g}" if is_almost_whole else f"{value:.2f}".rstrip("0").rstrip(".")
