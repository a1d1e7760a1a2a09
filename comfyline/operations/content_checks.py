"""What is wrong with a job's outputs by the checks of its step: pure, from how they look.

What cannot be looked at, a sound or a codec that nobody knows, is not rejected: an output costs
money, and a doubt is no flaw.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from comfyline.job import ContentChecks
from comfyline.media.similar import Appearance, NamedAppearance

_OFF = 0.02
"""How far an aspect ratio may be off: models make sizes of whole blocks of pixels."""
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*[:/x×]\s*(\d+(?:\.\d+)?)")
_PIXELS = re.compile(r"(\d{2,5})\s*[x*×]\s*(\d{2,5})", re.IGNORECASE)
_SIZES = ("size", "image_size", "video_size", "resolution")


def content_flaws(
    checks: ContentChecks,
    inputs: Mapping[str, Any],
    outputs: Sequence[NamedAppearance],
    given: Sequence[NamedAppearance],
    others: Iterable[NamedAppearance],
) -> dict[int, str]:
    """Tell what is wrong with each output that is to be rejected, as sentences, by its position.

    `given` are the job's media inputs, `others` the outputs that no output may look like.
    """
    seen, flaws = list(others) if checks.not_duplicate else [], {}
    for position, output in enumerate(outputs):
        found = [
            *_of_itself(checks, inputs, output.appearance),
            *(_of_input(output, given) if checks.not_input else ()),
            *(_of_others(output, seen) if checks.not_duplicate else ()),
        ]
        if found:
            name = "The output" if len(outputs) == 1 else f"Output {position + 1}"
            flaws[position] = f"{name} {'; it '.join(found)}"
        seen.append(output)
    return flaws


def asked_ratio(inputs: Mapping[str, Any]) -> float | None:
    """Return width by height as the inputs ask for it, under any name; None where they do not."""
    sizes = [inputs.get(name) for name in _SIZES]
    numbers = (inputs.get("width"), inputs.get("height"))
    candidates = [
        _ratio(_RATIO, inputs.get("aspect_ratio")),
        _divided(*numbers),
        *(_ratio(_PIXELS, size) for size in sizes),
        *(asked_ratio(inner) for inner in inputs.values() if isinstance(inner, Mapping)),
    ]
    return next((ratio for ratio in candidates if ratio), None)


def _of_itself(
    checks: ContentChecks, inputs: Mapping[str, Any], look: Appearance | None
) -> Iterator[str]:
    if look is None:
        return
    size = f"{look.width} × {look.height}"
    if look.width < checks.min_width or look.height < checks.min_height:
        yield f"is {size} pixels, and at least {_least(checks)} is asked for"
    ratio = asked_ratio(inputs) if checks.aspect_ratio else None
    if ratio and abs(look.width / look.height / ratio - 1) > _OFF:
        shown = inputs.get("aspect_ratio") or f"a ratio of {ratio:.3g}"
        yield f"is {size} pixels, and {shown} is asked for"
    if checks.not_blank and look.is_blank:
        yield "is blank: one colour all over"


def _least(checks: ContentChecks) -> str:
    if checks.min_width and checks.min_height:
        return f"{checks.min_width} × {checks.min_height}"
    return f"{checks.min_width} wide" if checks.min_width else f"{checks.min_height} high"


def _of_input(output: NamedAppearance, given: Iterable[NamedAppearance]) -> Iterator[str]:
    for one in given:
        looks = _pictures(output, one)
        if output.sha256 == one.sha256 or (looks and looks[0].is_same(looks[1])):
            yield f"is the same as the input {one.name}"
            return


def _of_others(output: NamedAppearance, others: Iterable[NamedAppearance]) -> Iterator[str]:
    for one in others:
        looks = _pictures(output, one)
        if output.sha256 == one.sha256 or (looks and looks[0].is_near(looks[1])):
            yield f"is nearly the same as an output of {one.name}"
            return


def _pictures(one: NamedAppearance, other: NamedAppearance) -> tuple[Appearance, Appearance] | None:
    """Return what both look like, where both are pictures; of a video only its beginning counts."""
    are_pictures = all(each.media_type.startswith("image/") for each in (one, other))
    if are_pictures and one.appearance and other.appearance:
        return one.appearance, other.appearance
    return None


def _ratio(pattern: re.Pattern[str], value: Any) -> float | None:
    match = pattern.fullmatch(value.strip()) if isinstance(value, str) else None
    return _divided(float(match[1]), float(match[2])) if match else None


def _divided(width: Any, height: Any) -> float | None:
    numbers = [value for value in (width, height) if isinstance(value, int | float)]
    if len(numbers) < 2 or any(isinstance(value, bool) or value <= 0 for value in numbers):  # noqa: PLR2004  # both
        return None
    return float(numbers[0] / numbers[1])
