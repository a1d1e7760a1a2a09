"""Media inputs where they lie: a local path, `s3://…` or `https://…`, read once as a stream."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from comfyline.errors import Unreachable
from comfyline.media import HEAD_BYTES, media_type_of
from comfyline.storage.bucket import Bucket

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bytes of a media input are. `media_type` is empty when they show none."""

    sha256: str
    bytes: int
    media_type: str


class Origins:
    """Reads media inputs, each address once a process."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[str, asyncio.Task[Facts]] = {}

    async def facts(self, origin: str) -> Facts:
        """Hash, size and type of a media input.

        Raises `FileNotFoundError`, `OSError` for what cannot be read, or `Unreachable`.
        """
        task = self._known.get(origin)
        if task is None:
            task = self._known[origin] = asyncio.create_task(self._read(origin))
        return await asyncio.shield(task)

    async def _read(self, origin: str) -> Facts:
        if not is_remote(origin):
            return await asyncio.to_thread(read_file, Path(origin))
        digest, size, head = hashlib.sha256(), 0, b""
        async for chunk in self._chunks(origin):
            if len(head) < HEAD_BYTES:
                head += chunk[:HEAD_BYTES]
            digest.update(chunk)
            size += len(chunk)
        return Facts(digest.hexdigest(), size, media_type_of(head))

    def _chunks(self, origin: str) -> AsyncIterator[bytes]:
        return self._bucket.read(origin) if origin.startswith("s3://") else _read_url(origin)


def is_remote(origin: str) -> bool:
    """Whether a media input lies elsewhere than on this machine's disk."""
    return origin.startswith(("s3://", "https://", "http://"))


def read_file(path: Path) -> Facts:
    """Hash, size and type of a local file, read as a stream. Blocking: call it in a thread."""
    digest, size, head = hashlib.sha256(), 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            head = head or chunk[:HEAD_BYTES]
            digest.update(chunk)
            size += len(chunk)
    return Facts(digest.hexdigest(), size, media_type_of(head))


async def _read_url(url: str) -> AsyncIterator[bytes]:
    shown = url.split("?", maxsplit=1)[0]
    try:
        async with (
            httpx.AsyncClient(timeout=30, follow_redirects=True, max_redirects=3) as http,
            http.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise FileNotFoundError(f"{shown} answers HTTP {answer.status_code}")
            async for chunk in answer.aiter_bytes(_CHUNK):
                yield chunk
    except httpx.HTTPError as error:
        raise Unreachable(f"{shown} cannot be read: {type(error).__name__}") from error
