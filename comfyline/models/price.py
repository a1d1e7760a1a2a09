"""What a job would cost, as far as can be known before: an estimate, and unknown is not free."""

import math
import re
from collections.abc import Mapping
from typing import Any

from comfyline.models.entry import ModelEntry

_COUNTS = (
    "num_images",
    "num_videos",
    "num_outputs",
    "num_samples",
    "number_of_images",
    "number_of_videos",
    "number_of_outputs",
    "image_count",
    "batch_size",
    "n",
)
"""The names under which models take how many outputs to make."""
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*s?", re.ASCII)


def estimate(entry: ModelEntry, inputs: Mapping[str, Any]) -> float | None:
    """The price in US dollars, None when it is unknown; the truth is the result's `cost`."""
    if entry.base_price_usd is None:
        return None
    units: float | None = None
    if entry.price_unit == "output":
        units = expected_outputs(entry, inputs)
    elif entry.price_unit == "second":
        units = _seconds(_asked(entry, inputs, "duration"))
    return None if units is None else entry.base_price_usd * units


def expected_outputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> int:
    """How many outputs the inputs ask for, by the schema's defaults where they do not say."""
    for name in _COUNTS:
        asked = _asked(entry, inputs, name)
        if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1:
            return asked
    return 1


def _asked(entry: ModelEntry, inputs: Mapping[str, Any], name: str) -> Any:
    """What the model would take for a field: the input, else what the server fills in."""
    if inputs.get(name) is not None:
        return inputs[name]
    fields = entry.input_schema.get("properties")
    known = fields.get(name) if isinstance(fields, Mapping) else None
    return known.get("default") if isinstance(known, Mapping) else None


def _seconds(duration: Any) -> float | None:
    """Models take `5`, and some `"5"` or `"5s"`; -1 or `auto` leaves the length to the model."""
    if isinstance(duration, str) and (match := _SECONDS.fullmatch(duration.strip())):
        duration = float(match[1])
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return None
    return float(duration) if math.isfinite(duration) and duration > 0 else None
