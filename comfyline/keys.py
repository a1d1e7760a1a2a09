"""The job key: one hash over what is asked for, and nothing else.

Two requests with the same model, inputs (media by the SHA-256 of their bytes) and variant are the
same job, whatever pipeline, machine or file name asks for them.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from comfyline.job import Media, Pointer

_VERSION = "comfyline-job-1"


def job_key(model_id: str, inputs: Mapping[str, Any], media: Iterable[Media], variant: Any) -> str:
    """The key under which the ledger knows a job: 64 hex digits, stable over versions."""
    hashed = replace_values(inputs, {part.pointer: f"sha256:{part.sha256}" for part in media})
    asked = {"model": model_id, "inputs": hashed, "variant": variant}
    canonical = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{_VERSION}\n{canonical}".encode()).hexdigest()


def replace_values(inputs: Mapping[str, Any], values: Mapping[Pointer, Any]) -> dict[str, Any]:
    """A copy of `inputs` in which the values at the given pointers are replaced."""
    replaced: dict[str, Any] = copy.deepcopy(dict(inputs))
    for pointer, value in values.items():
        parent: Any = replaced
        for step in pointer[:-1]:
            parent = parent[step]
        parent[pointer[-1]] = value
    return replaced
