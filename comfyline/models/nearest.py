"""The value that was meant: the nearest of those that a model accepts."""

import json
import re
from collections.abc import Sequence
from typing import Any

from comfyline.yaml.file import did_you_mean
from comfyline.yaml.scalars import as_number, as_truth

_SIZE = re.compile(r"(?<=\d)\s*[x×*/\-_.,:]\s*(?=\d)", re.IGNORECASE)
_LEADING = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)


def nearest_choice(value: Any, choices: Sequence[Any]) -> str:
    """The hint for a value that is not among the choices; empty when none is near.

    People write `16x9`, `2k` and `PNG`, and a number where a text is due.
    """
    plain = _plain(value)
    for choice in choices:
        if plain == _plain(choice):
            if isinstance(value, str) and not isinstance(choice, str):
                return f"write it without quotes: `{written(choice)}`"
            return f"did you mean {quoted(choice, value)}?"
    by_plain = {_plain(choice): choice for choice in reversed(choices)}
    if found := did_you_mean(plain, list(by_plain)):
        choice = by_plain[found.removeprefix("did you mean `").removesuffix("`?")]
        return f"did you mean {quoted(choice, value)}?"
    return ""


def as_type(value: Any, types: Sequence[str]) -> str:
    """How a value of the wrong type is to be written, `"2"` as `2`; empty when unknown."""
    if isinstance(value, str):
        return _from_text(value.strip(), types)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if "string" in types and (is_number or isinstance(value, bool)):
        return f'write it in quotes: `"{written(value)}"`'
    if "integer" in types and isinstance(value, float) and abs(value) < 1e15:  # noqa: PLR2004  # a float counts exactly so far
        return f"did you mean `{round(value)}`?"
    if "boolean" in types and is_number and value in {0, 1}:
        return f"did you mean `{written(bool(value))}`?"
    if "array" in types and not isinstance(value, dict | list) and value is not None:
        return "write it as a list: `[…]`"
    return ""


def quoted(choice: Any, value: Any) -> str:
    """A choice as it is to be typed; in quotes where it is the type that was wrong."""
    is_type_wrong = isinstance(choice, str) and not isinstance(value, str)
    return f'`"{choice}"`' if is_type_wrong and choice == written(value) else f"`{written(choice)}`"


def written(value: Any) -> str:
    """A value as people read it: text bare, the rest as JSON has it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):  # a number without end, a date, a deep nest
        return type(value).__name__


def _from_text(text: str, types: Sequence[str]) -> str:
    if "boolean" in types and (hint := as_truth(text)):
        return hint
    if "number" in types or "integer" in types:
        found = _LEADING.match(text)
        if found and found[0] == text and "." in text and "number" not in types:
            return ""
        if hint := as_number(text):
            return hint
        if found and len(text) - len(found[0]) <= 8:  # noqa: PLR2004  # a unit: `5 seconds`
            return f"did you mean `{found[0]}`?"
    if "array" in types:
        return f"write it as a list: `[{text}]`" if len(text) <= 60 else "write it as a list"  # noqa: PLR2004  # what fits on a line
    return ""


def _plain(value: Any) -> str:
    return _SIZE.sub(":", written(value).strip().casefold())
