"""What differs between two catalogue entries, said field by field."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 80


def changes(before: Any, after: Any) -> list[str]:
    """Every difference on a line of its own, by its place: `input_schema.properties.seed`.

    Empty when both say the same. The order of an object's keys is no difference.
    """
    return list(_changes(before, after, ""))


def _changes(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            inner = f"{place}.{name}" if place else str(name)
            if name not in after:
                yield f"{inner} is gone"
            elif name not in before:
                yield f"{inner} is new: {_short(after[name])}"
            else:
                yield from _changes(before[name], after[name], inner)
    elif json.dumps(before) != json.dumps(after):
        yield f"{place or 'the entry'}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
