"""JSON lines: one object a line, its values as they are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from comfyline.errors import Problem


def jsonl_rows(path: Path, called: str) -> Iterator[dict[str, Any] | Problem]:
    """Gives each line's object, or what is wrong with it; empty lines are passed over.

    Raises `OSError`.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if row := _row(line, f"{called}:{number}", first=number == 1):
                yield row


def _row(line: bytes, where: str, *, first: bool) -> dict[str, Any] | Problem | None:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").strip()
        if not text:
            return None
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse)
    except UnicodeDecodeError:
        return Problem(where, "the line is not UTF-8 text", "save the file in UTF-8")
    except json.JSONDecodeError as error:
        message = f"the line is no JSON: {error.msg} (at its character {error.colno})"
        return Problem(where, message, "each line is one whole object: {…}")
    except (ValueError, RecursionError) as error:
        return Problem(where, f"the line cannot be used: {error}")
    if not isinstance(value, dict):
        return Problem(where, "the line is no object", 'write {"sku": "A1", …}')
    return value or Problem(where, "the object is empty")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it names `{key}` twice")
        found[key] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")
