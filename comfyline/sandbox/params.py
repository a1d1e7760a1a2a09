"""What an input asks for, whatever the model calls it: words, lengths, numbers, sizes.

The catalogue has several hundred models, and they name the same wish differently. All readings
are pure, and a wish that is not understood counts as not expressed.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_WORDS = ("prompt", "text", "tags", "lyrics", "script", "style")
_NUMBER = re.compile(
    r"(num|number_of)_(images|videos|audios|outputs|samples|results|variations|songs|clips)"
    r"|(image|video|output)_count|batch_size|n"
)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|secs|second|seconds)?", re.IGNORECASE)
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*[:/]\s*(\d+(?:\.\d+)?)")
_PIXELS = re.compile(r"(\d{2,5})\s*[x*×]\s*(\d{2,5})", re.IGNORECASE)
_LINES = re.compile(r"(\d{3,4})p", re.IGNORECASE)
_THOUSANDS = re.compile(r"(\d(?:\.\d)?)k", re.IGNORECASE)

_MOST_OUTPUTS = 16
_WIDEST = 8.0


def asked(inputs: Mapping[str, Any], name: str) -> Any:
    """Find the value of a field, at the top or in a nested object; None when it is nowhere."""
    if inputs.get(name) is not None:
        return inputs[name]
    nested = (part for part in inputs.values() if isinstance(part, Mapping))
    return next((found for part in nested if (found := asked(part, name)) is not None), None)


def words(inputs: Mapping[str, Any]) -> str:
    """Return everything that was written for the model to understand, in one line."""
    found = (asked(inputs, name) for name in _WORDS)
    return ", ".join(text for text in found if isinstance(text, str) and text.strip())


def is_number_of_outputs(name: str) -> bool:
    """Tell whether a field of this name says how many outputs to make."""
    return _NUMBER.fullmatch(name) is not None


def how_many(inputs: Mapping[str, Any]) -> int:
    """Return how many outputs are asked for."""
    numbers = (
        value
        for name, value in inputs.items()
        if is_number_of_outputs(name) and isinstance(value, int) and not isinstance(value, bool)
    )
    return max(1, min(_MOST_OUTPUTS, next(numbers, 1)))


def seconds(inputs: Mapping[str, Any]) -> float | None:
    """Return the `duration`: `5`, `"5"` or `"5s"`; None where the length is left to the model."""
    value = asked(inputs, "duration")
    if isinstance(value, str) and (written := _SECONDS.fullmatch(value.strip())):
        value = float(written[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def sound_switch(inputs: Mapping[str, Any]) -> bool | None:
    """Tell whether a video should have sound, by any switch of the model; None without one."""
    switches = [
        value
        for name, value in inputs.items()
        if isinstance(value, bool) and ("audio" in name or "sound" in name)
    ]
    return any(switches) if switches else None


def frame_size(
    inputs: Mapping[str, Any], model_id: str, kind: str, natural: tuple[int, int] | None
) -> tuple[float, float]:
    """Return width and height of an image or a video, in pixels.

    The ratio is the one asked for, else that of the first input (`natural`), else 1:1 of an image
    and 16:9 of a video. Where the input says no resolution, one in the model's name counts, as in
    `…/1080p`: `p` counts the shorter edge, and `K` the longer one by 1024.
    """
    written = [str(asked(inputs, name) or "") for name in ("size", "resolution", "aspect_ratio")]
    if exact := next((found for text in written if (found := _PIXELS.fullmatch(text))), None):
        return _bounded(int(exact[1])), _bounded(int(exact[2]))
    width, height = natural or ((1, 1) if kind == "image" else (16, 9))
    shape = width / height
    if (ratio := _RATIO.fullmatch(written[2])) and float(ratio[1]) and float(ratio[2]):
        shape = float(ratio[1]) / float(ratio[2])
    shape = min(_WIDEST, max(1 / _WIDEST, shape))
    stretch = max(shape, 1 / shape)
    long = 1024.0 if kind == "image" else 720 * stretch
    for text in (model_id.rpartition("/")[2], written[1]):
        if lines := _LINES.fullmatch(text):
            long = int(lines[1]) * stretch
        elif thousands := _THOUSANDS.fullmatch(text):
            long = float(thousands[1]) * 1024
    long = _bounded(long)
    return (long, long / stretch) if shape >= 1 else (long / stretch, long)


def _bounded(pixels: float) -> float:
    return max(64, min(4096, pixels))


def flat(value: Any) -> Iterator[Any]:
    """Yield every single value of a nested one, in order."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from flat(part)
    else:
        yield value
