"""What is sent, written down: a call's path and the POST's body.

What no server could take is refused here, before anything leaves. All raise `InputInvalid`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from comfyline.errors import InputInvalid, Problem

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def request_path(request_id: str) -> str:
    """The path of all calls about one request."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise InputInvalid([Problem("request id", f"{request_id!r} is none that RunComfy gives")])
    return f"/v1/requests/{request_id}"


def model_path(model_id: str) -> str:
    """The path of a model: of its catalogue entry, and of the POST that runs it."""
    # A dot as a part would lead to another call, and an empty part to none that is known.
    if {"", ".", ".."} & set(model_id.split("/")):
        raise InputInvalid([Problem(repr(model_id), "no model can have this id")])
    return f"/v1/models/{quote(model_id, errors='replace')}"


def written(model_id: str, inputs: Mapping[str, Any]) -> bytes:
    """The inputs of a model as JSON."""
    try:
        text = json.dumps(dict(inputs), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        problem = Problem(model_id, f"the inputs cannot be written as JSON: {error}")
        raise InputInvalid([problem]) from error
