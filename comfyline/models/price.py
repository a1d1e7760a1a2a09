"""What a job would cost, as far as can be known before: an estimate, and unknown is not free."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from comfyline.models.dialect import as_mapping
from comfyline.models.entry import ModelEntry

_COUNTS: Sequence[str] = (
    *("num_images", "num_videos", "num_outputs", "num_samples", "number_of_images"),
    *("number_of_videos", "number_of_outputs", "image_count", "batch_size", "n"),
)
"""The names under which models take how many outputs to make."""
_MOST = 1_000_000
"""More outputs than this of one request are a mistake, and no number to multiply a price with."""
_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?:s|sec|secs|second|seconds)?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


def estimate(entry: ModelEntry, inputs: Mapping[str, Any]) -> float | None:
    """Estimate the price in US dollars; None if unknown. The truth is the result's `cost`.

    Unknown is also what multiplies the price: a number of outputs or a duration that makes no
    sense, or that is left to the model (`auto`, -1).
    """
    if entry.base_price_usd is None:
        return None
    units: float | None = None
    if entry.price_unit == "output":
        units = _outputs(entry, inputs)
    elif entry.price_unit == "second":
        units = _seconds(_asked(entry, inputs, "duration"))
    if units is None:
        return None
    price = entry.base_price_usd * units
    return price if math.isfinite(price) else None


def expected_outputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> int:
    """Count the outputs that the inputs ask for, by the schema's defaults where they do not say.

    One where that makes no sense: it names outputs, and their number decides about no money.
    """
    return _outputs(entry, inputs) or 1


def _outputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> int | None:
    """Return the number of outputs that is asked for; None for what is no number of outputs."""
    asked = (_asked(entry, inputs, name) for name in _COUNTS)
    named = next((value for value in asked if value is not None), 1)
    if isinstance(named, str) and _WHOLE.fullmatch(named.strip()):
        named = int(named)
    if isinstance(named, float) and named.is_integer():
        named = int(named)
    is_count = isinstance(named, int) and not isinstance(named, bool) and 1 <= named <= _MOST
    return named if is_count else None


def _asked(entry: ModelEntry, inputs: Mapping[str, Any], name: str) -> Any:
    """Return what the model would take for a field: the input, else the server's default."""
    if inputs.get(name) is not None:
        return inputs[name]
    fields = as_mapping(entry.input_schema.get("properties"))
    return as_mapping(fields.get(name)).get("default")


def _seconds(duration: Any) -> float | None:
    """Read a duration, `5`, `"5"` or `"5s"`; None if the length is left to the model."""
    if isinstance(duration, str) and (match := _SECONDS.fullmatch(duration.strip())):
        duration = float(match[1])
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return None
    try:
        seconds = float(duration)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
