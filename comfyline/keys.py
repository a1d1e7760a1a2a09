"""The job key: one hash over what is asked for, and nothing else.

Two requests with the same model, inputs (media by the SHA-256 of their bytes) and variant are the
same job, whatever pipeline, machine or file name asks for them.

"The same" means: the same JSON goes out. The order of an object's keys is no difference; `true`,
`1`, `1.0` and `"1"` are four different values, because RunComfy is sent four different texts.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Media, Pointer

_VERSION = "comfyline-job-1"


def job_key(model_id: str, inputs: Mapping[str, Any], media: Iterable[Media], variant: Any) -> str:
    """Return the key under which the ledger knows a job: 64 hex digits, stable over versions.

    Raises `InputInvalid` for what JSON cannot say: such a request could not be sent either.
    """
    hashed = replace_values(inputs, {part.pointer: _content(part) for part in media})
    asked = {"model": model_id, "inputs": hashed, "variant": variant}
    problems = [*_not_json(hashed, ()), *_not_json(variant, ("variant",))]
    if problems:
        raise InputInvalid(problems)
    canonical = json.dumps(
        asked, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return hashlib.sha256(f"{_VERSION}\n{canonical}".encode()).hexdigest()


def _content(medium: Media) -> str:
    # By the original: an encoder's next version must not make another job of the same photo.
    return f"sha256:{medium.sha256}" + (f"+{medium.conversion}" if medium.conversion else "")


def replace_values(inputs: Mapping[str, Any], values: Mapping[Pointer, Any]) -> dict[str, Any]:
    """Copy `inputs` with the values at the given pointers replaced."""
    replaced: dict[str, Any] = _copied(dict(inputs))
    for pointer, value in values.items():
        parent: Any = replaced
        for step in pointer[:-1]:
            parent = parent[step]
        parent[pointer[-1]] = value
    return replaced


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _not_json(value: Any, pointer: Pointer) -> Iterator[Problem]:
    where = ".".join(map(str, pointer))
    match value:
        case None | bool() | int():
            return
        case float():
            if not math.isfinite(value):
                yield Problem(where, f"{value} is not a number that JSON can represent")
        case str():
            if not _is_text(value):
                yield Problem(where, "the text contains bytes that are not UTF-8")
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str) or not _is_text(key):
                    yield Problem(where, f"the key {key!r} is not text", "write it in quotes")
                yield from _not_json(inner, (*pointer, str(key)))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _not_json(inner, (*pointer, index))
        case _:
            kind = type(value).__name__
            yield Problem(
                where, f"values of type {kind} cannot be sent", "write it as text, in quotes"
            )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
