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

from comfyline.media import Look

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


def judge_medium(validations: Any, size: int, look: Look) -> Findings:
    """Holds a medium against a field's `validations`. `size` is in bytes. Raises nothing."""
    listed = validations if isinstance(validations, list | tuple) else ()
    if not listed:
        return Findings()
    measures = _measures(size, look)
    broken: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for validation in (one for one in listed if isinstance(one, Mapping)):
        written = validation.get("validation_rule")
        name = written[:_LONGEST] if isinstance(written, str) else "a rule without a name"
        match = _RULE.fullmatch(re.sub(r"\s", "", name.lower()))
        limit = _number(validation.get("validation_value"))
        value = _value(match["quantity"], measures) if match else None
        if match is None or limit is None or value is None:
            unknown[name] = None
            continue
        fits, words = _OPERATORS[match["operator"]]
        is_near = "=" in match["operator"] and math.isclose(value, limit, rel_tol=_NEAR)
        if fits(value, limit) or (is_near and match["operator"] != "!="):
            continue
        said = validation.get("validation_error")
        sentence = said.strip().rstrip(".")[:_LONGEST] if isinstance(said, str) else ""
        sentence = sentence or f"{match['quantity']} has to be {words} {limit:g}"
        broken[f"{sentence} (it has {_shown(match['quantity'], value, look)})"] = None
    return Findings(tuple(broken), tuple(unknown))


def merge(findings: Iterable[Findings]) -> Findings:
    """Of several alternatives, what the one says that is nearest to fitting."""
    return min(findings, key=lambda one: len(one.broken), default=Findings())


def _measures(size: int, look: Look) -> dict[str, float]:
    """Every quantity by every name that a rule may give it."""
    width, height = look.width, look.height
    named: list[tuple[Sequence[str], float | None]] = [
        (("file_size_mb", "size_mb", "mb"), size / 2**20),
        (("file_size_kb", "size_kb", "kb"), size / 2**10),
        (("file_size_gb", "size_gb"), size / 2**30),
        (("file_size", "file_size_bytes", "file_size_b", "size_bytes", "bytes"), size),
        (("width", "width_pixels", "width_px", "image_width", "video_width"), width),
        (("height", "height_pixels", "height_px", "image_height", "video_height"), height),
        (("duration", "duration_seconds", "duration_s", "duration_sec"), look.duration),
        (("seconds", "video_duration", "audio_duration", "length_seconds"), look.duration),
        (("fps", "frame_rate", "framerate", "frames_per_second"), look.fps),
    ]
    if width and height:
        named += [
            (("pixels", "total_pixels", "num_pixels", "area"), width * height),
            (("megapixels", "mp", "total_megapixels"), width * height / 1e6),
            (("aspect_ratio", "ratio"), width / height),
            (("min_side", "min_side_pixels", "short_side", "shortest_side"), min(width, height)),
            (("max_side", "max_side_pixels", "long_side", "longest_side"), max(width, height)),
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


def _shown(quantity: str, value: float, look: Look) -> str:
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
