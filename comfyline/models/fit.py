"""Inputs as people type them → as the model's schema types them.

On a command line everything is text, and one photo for a list of photos is one photo.
"""

import json
from collections.abc import Mapping
from typing import Any

from comfyline.keys import replace_values
from comfyline.models.check import is_too_deep
from comfyline.models.dialect import media_fields
from comfyline.models.entry import ModelEntry


def fit_inputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs with text read as a number, a switch, a list or an object where one is due.

    A medium may be written `@photo.jpg`, as curl has it. What does not fit is left as it is, for
    the check to complain about.
    """
    if is_too_deep(inputs):
        return dict(inputs)
    fields = entry.plain_schema.get("properties", {})
    fitted = {name: _fit(fields.get(name, {}), value) for name, value in inputs.items()}
    for media in media_fields(entry.input_schema, fitted):
        if media.value.startswith("@"):
            fitted = replace_values(fitted, {media.pointer: media.value.removeprefix("@")})
    return fitted


def _fit(field: Mapping[str, Any], value: Any) -> Any:
    types = _types(field)
    if isinstance(value, str) and types and "string" not in types:
        value = _read(value)
    if "array" in types and "string" not in types and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        return [_fit(field.get("items", {}), one) for one in value]
    return value


def _types(field: Mapping[str, Any]) -> set[str]:
    """The types that a field takes by any of its alternatives; none when one of them takes all."""
    if "type" in field:
        return set(field["type"])
    branches = [_types(one) for one in (*field.get("anyOf", ()), *field.get("oneOf", ()))]
    return set().union(*branches) if all(branches) else set()


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
