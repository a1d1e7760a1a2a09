"""Reading a sidecar back: what it says of the file that it lies beside."""

import json
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comfyline.storage.place import Place

SUFFIX = ".json"
_MOST_BYTES = 8 * 1024 * 1024


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SidecarOutput(_Read):
    """The file itself: the hash and the size of what was stored, in pixels and seconds too."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int
    index: int = 0
    media_type: str = "application/octet-stream"
    width: int | None = None
    height: int | None = None
    duration: float | None = None


class Sidecar(_Read):
    """What can be checked of a sidecar; the rest is for people.

    `outputs` is how many the job has in all, None where a version wrote it that did not say so.
    """

    job: str
    attempt: int = 1
    cost_usd: float | None = None
    estimate_usd: float | None = None
    rejected: str = ""
    timestamps: dict[str, datetime] = {}
    outputs: int | None = None
    origin: str | None = None
    account: str | None = None
    request_id: str | None = None
    output: SidecarOutput


async def read_sidecar(place: Place, uri: str) -> Sidecar | None:
    """Read the sidecar at `uri`; None when there is none. Raises ValueError for a broken one."""
    text = await read_text(place, uri)
    return None if text is None else parsed(text)


async def read_text(place: Place, uri: str) -> bytes | None:
    """Read a sidecar as it lies there; None for none. Raises ValueError when it is too large."""
    text = b""
    try:
        async with aclosing(place.read(uri)) as chunks:
            async for chunk in chunks:
                text += chunk
                if len(text) > _MOST_BYTES:
                    raise ValueError("it is far too large to be a sidecar")
    except FileNotFoundError:
        return None
    return text


def named(text: bytes, name: str) -> str:
    """Write a sidecar anew for its file under another name; nothing else of it changes."""
    document = json.loads(text)
    document["output"]["name"] = name
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def parsed(text: bytes) -> Sidecar:
    """Parse a sidecar. Raises ValueError for what is none."""
    try:
        return Sidecar.model_validate(json.loads(text))
    except (ValidationError, RecursionError, ValueError):
        raise ValueError("it is not a sidecar of comfyline's") from None
