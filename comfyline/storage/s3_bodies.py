"""The bytes of objects on their way to and from S3: streamed, and watched for standstill."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import ClientError
from yarl import URL

from comfyline.errors import Unreachable
from comfyline.storage.bucket_errors import in_words
from comfyline.storage.bucket_options import Patience
from comfyline.storage.s3_retry import PASSING, may_pass, wait_before
from comfyline.storage.s3_session import S3Session

_PIECE = 512 * 1024
"""What is handed to the connection at a time; larger pieces wait in its buffer, as copies."""
_BATCH = 1024 * 1024
_MOST_OF_AN_ERROR = 64 * 1024
_ENCRYPTION = "x-amz-server-side-encryption"
_HEADERS = {
    "ContentMD5": "Content-MD5",
    "ContentType": "Content-Type",
    "IfNoneMatch": "If-None-Match",
    "SSEKMSKeyId": f"{_ENCRYPTION}-aws-kms-key-id",
    "ServerSideEncryption": _ENCRYPTION,
    "StorageClass": "x-amz-storage-class",
}
"""The signature covers the headers that botocore makes of these, so they are sent as well."""
_OK, _PARTIAL = 200, 206
_CHANGED = {412, 416}
_START = re.compile(r"bytes (\d+)-")
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a server says of a body that it has. The ETag of one with a key of its own is no MD5."""

    etag: str
    is_keyed: bool


async def send(
    session: S3Session, method: str, uri: str, body: memoryview, **parameters: Any
) -> Stored:
    """Sends a body once, as an object or as a part of one. Raises the driver's errors."""
    url = await session.sign(method, uri, **parameters)
    http = await session.http()
    async with (
        asyncio.timeout(session.patience.idle) as limit,
        http.put(
            URL(url, encoded=True),
            data=_pieces(body, limit, session.patience),
            headers={"Content-Length": str(len(body)), **_headers(parameters)},
            skip_auto_headers=["Content-Type"],
            allow_redirects=False,
        ) as answer,
    ):
        if answer.status != _OK:
            raise await _refusal(answer, method)
        is_keyed = answer.headers.get(_ENCRYPTION, "").startswith("aws:kms")
        return Stored(answer.headers.get("ETag", "").strip('"'), is_keyed=is_keyed)


async def receive(session: S3Session, uri: str) -> AsyncGenerator[list[bytes], None]:
    """An object's bytes in batches of about a megabyte.

    After a break it goes on where it was; it gives up when several attempts in a row bring nothing.
    Raises `FileNotFoundError`, and `Unreachable`, also when the object is replaced meanwhile.
    """
    reading, in_vain = _Reading(session, uri), 0
    while True:
        before = reading.bytes
        with in_words(session.endpoint, uri):
            try:
                async with aclosing(reading.batches()) as batches:
                    async for batch in batches:
                        yield batch
            except PASSING as error:
                in_vain = 1 if reading.bytes > before else in_vain + 1
                if in_vain >= session.patience.attempts or not may_pass(error):
                    raise
            else:
                return
        await wait_before(in_vain, session.patience)


class _Reading:
    """How far an object has been read, and which one it is."""

    def __init__(self, session: S3Session, uri: str) -> None:
        self._session = session
        self._uri = uri
        self._etag = ""
        self.bytes = 0

    async def batches(self) -> AsyncGenerator[list[bytes], None]:
        """What is still to be read. Raises the driver's errors."""
        url = await self._session.sign("get_object", self._uri)
        http = await self._session.http()
        rest = {"Range": f"bytes={self.bytes}-", "If-Match": self._etag} if self.bytes else {}
        async with http.get(
            URL(url, encoded=True),
            headers={name: value for name, value in rest.items() if value},
            allow_redirects=False,
        ) as answer:
            await self._begin(answer)
            # Not every server knows ranges, and not every one that does says so by its status.
            told = _START.match(answer.headers.get("Content-Range", ""))
            skipped = self.bytes - (int(told[1]) if told else 0)
            async for batch in _batches(answer.content, skipped):
                self.bytes += sum(map(len, batch))
                yield batch

    async def _begin(self, answer: aiohttp.ClientResponse) -> None:
        etag = answer.headers.get("ETag", "")
        is_here = answer.status in {_OK, _PARTIAL}
        if self.bytes and (answer.status in _CHANGED or (is_here and etag != self._etag)):
            raise Unreachable(f"{self._uri} was replaced while it was read", hint="Run again.")
        if not is_here:
            raise await _refusal(answer, "get_object")
        self._etag = etag


async def _batches(
    content: aiohttp.StreamReader, skipped: int
) -> AsyncGenerator[list[bytes], None]:
    batch: list[bytes] = []
    size = 0
    try:
        async for piece in content.iter_any():
            kept = piece[skipped:] if skipped else piece
            skipped -= len(piece) - len(kept)
            if kept:
                batch.append(kept)
                size += len(kept)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    except (aiohttp.ClientError, OSError):
        # What came before the break need not come again.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


async def _pieces(
    body: memoryview, limit: asyncio.Timeout, patience: Patience
) -> AsyncIterator[memoryview]:
    """The body for the connection; each piece that it takes puts off the limit."""
    now = asyncio.get_running_loop().time
    for start in range(0, len(body), _PIECE):
        limit.reschedule(now() + patience.idle)
        yield body[start : start + _PIECE]
    limit.reschedule(now() + patience.idle)


def _headers(parameters: Mapping[str, Any]) -> dict[str, str]:
    headers = {_HEADERS[name]: str(parameters[name]) for name in _HEADERS if name in parameters}
    metadata: Mapping[str, str] = parameters.get("Metadata", {})
    return headers | {f"x-amz-meta-{name}": value for name, value in metadata.items()}


async def _refusal(answer: aiohttp.ClientResponse, method: str) -> ClientError:
    """What the server says, as the driver would raise it; of its text only the one word."""
    told = _CODE.search(await answer.content.read(_MOST_OF_AN_ERROR))
    code = told[1].decode() if told else str(answer.status)
    status = {"HTTPStatusCode": answer.status}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": status}, method)
