"""What an input asks for, whatever the model calls it: numbers and lengths.

The catalogue has several hundred models, and they name the same wish differently. A wish that is
not understood counts as not expressed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(
    r"(num|number_of)_(images|videos|audios|outputs|samples|results|variations|songs|clips)"
    r"|(image|video|output)_count|batch_size|n"
)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|secs|second|seconds)?", re.IGNORECASE)

_MOST_OUTPUTS = 16


def asked(inputs: Mapping[str, Any], name: str) -> Any:
    """Find the value of a field, at the top or in a nested object; None when it is nowhere."""
    if inputs.get(name) is not None:
        return inputs[name]
    nested = (part for part in inputs.values() if isinstance(part, Mapping))
    return next((found for part in nested if (found := asked(part, name)) is not None), None)


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
