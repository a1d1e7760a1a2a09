"""The JSON that lies beside every stored output and says what made it: written and read back."""

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comfyline.config.account import Account
from comfyline.job import CheckedJob, Media, Pointer, StoredOutput
from comfyline.redact import bare_origin, without_secrets
from comfyline.storage.place import Place

SUFFIX = ".json"
_MOST_BYTES = 8 * 1024 * 1024


def sidecar_text(
    checked: CheckedJob,
    output: StoredOutput,
    *,
    account: Account | None,
    request_id: str | None,
    attempt: int,
    cost_usd: float | None,
    estimate_usd: float | None,
    timestamps: Mapping[str, datetime],
    outputs: int = 1,
    rejected: str = "",
) -> str:
    """Write the sidecar of one output, which will lie beside it.

    `account` is whose request made it. `timestamps` holds when the job entered each state; times
    without a zone are taken as UTC. `cost_usd` is what the whole job cost, None when RunComfy did
    not say, and `estimate_usd` what it was expected to cost when it was submitted. `outputs`
    is how many the job has in all, `rejected` why it was stored aside, empty for one that was
    accepted. Presigned URLs never get in: media stand as their hash and origin, and every URL
    is cut off at its query.
    """
    job = checked.job
    document = {
        "job": checked.key,
        "pipeline": job.pipeline,
        "item": job.item,
        "step": job.step,
        "model": job.model_id,
        "inputs": _as_submitted(job.inputs, {media.pointer: media for media in checked.media}),
        "variant": _as_submitted(job.variant, {}),
        **({"labels": dict(job.labels)} if job.labels else {}),
        "origin": account.origin if account else None,
        "account": account.name if account else None,
        "request_id": request_id,
        "attempt": attempt,
        "cost_usd": cost_usd,
        "estimate_usd": estimate_usd,
        "outputs": outputs,
        **({"rejected": rejected} if rejected else {}),
        "timestamps": {str(state): _iso(moment) for state, moment in timestamps.items()},
        "output": {
            "index": output.index,
            "name": output.uri.rpartition("/")[2],
            "sha256": output.sha256,
            "bytes": output.bytes,
            "media_type": output.media_type,
            **_measured(output),
        },
    }
    # `default`: YAML knows dates, JSON does not.
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
    # A file name that is not UTF-8 must not keep a sidecar from being stored.
    return text.encode("utf-8", "replace").decode()


def _measured(output: StoredOutput) -> dict[str, float]:
    told = {"width": output.width, "height": output.height, "duration": output.duration}
    return {name: value for name, value in told.items() if value is not None}


def _as_submitted(value: Any, media: Mapping[Pointer, Media], at: Pointer = ()) -> Any:
    if at in media:
        return _described(media[at])
    if isinstance(value, Mapping):
        return {str(key): _as_submitted(inner, media, (*at, key)) for key, inner in value.items()}
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Sequence):
        return [_as_submitted(inner, media, (*at, index)) for index, inner in enumerate(value)]
    return value


def _described(media: Media) -> dict[str, Any]:
    return {
        "sha256": media.sha256,
        "origin": bare_origin(media.origin),
        "bytes": media.bytes,
        "media_type": media.media_type,
        **({"conversion": media.conversion} if media.conversion else {}),
    }


def _iso(moment: datetime) -> str:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        raise ValueError("it is not a comfyline sidecar") from None
