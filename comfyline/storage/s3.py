"""S3 and what speaks like it, through s3fs: streamed, in bounded memory, with Signature V4.

s3fs finds the credentials and the region of a bucket. Its client is called here directly, as an
object is shown only when it is whole, and where asked, only when there was none.
"""
# ruff: noqa: D102  # `Place` says what its methods do

import asyncio
import hashlib
import math
import os
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import SEEK_END, BytesIO, FileIO
from pathlib import Path
from typing import Any, Self

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from comfyline.config.settings import StorageSettings
from comfyline.errors import Altered, Unreachable
from comfyline.storage.place import CHUNK_BYTES, Listed, Place
from comfyline.storage.s3_errors import (
    NO_BUCKET,
    Unsupported,
    code_of,
    error_in_words,
    in_words,
    may_pass,
    no_bucket,
    replaced,
    shown_endpoint,
)

_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 2
"""Parts of one file under way."""
_BODIES_AT_ONCE = 8
"""Bodies in memory, of all files together."""
_CONNECTIONS = 32
_READ_BYTES = 2**20
_SECONDS_BETWEEN_RENEWALS = 60.0
"""Each is a call to whoever gives the credentials."""
_COMPLETING = 300.0
"""Seconds in which a server puts the parts of an object together; S3 says it may be minutes."""
_PAUSE = 0.4
"""Seconds before a call is repeated; each further wait may be twice as long."""
_READING = frozenset({"get_object", "head_object", "list_objects_v2"})
_OF_BUCKETS = frozenset({"head_bucket", "list_objects_v2"})
_PLAIN = "application/octet-stream"
_SCRIPTED = frozenset(
    {"", "application/xhtml+xml", "application/xml", "image/svg+xml", "text/html", "text/xml"}
)
"""What is stored without its type: a browser that opens it would run what is written in it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for; times are in seconds.

    `idle` is the time in which nothing at all moves. A body has to make `slowest` bytes a second.
    """

    attempts: int = 4
    connect: float = 10.0
    idle: float = 30.0
    slowest: float = 32 * 1024
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Bucket(Place):
    """Files under `s3://` URIs; used as an async context manager, which opens nothing by itself.

    Without key and secret the AWS chain of the machine decides (environment, profile, role).
    """

    def __init__(self, settings: StorageSettings, patience: Patience = Patience()) -> None:
        self._settings = settings
        self._patience = patience
        self._endpoint = shown_endpoint(settings.endpoint_url)
        self._opening = asyncio.Lock()
        self._bodies = asyncio.Semaphore(_BODIES_AT_ONCE)
        self._fs: Any = None
        self._clients: dict[str, Any] = {}
        self._there: set[str] = set()
        self._renewed_at = -math.inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    async def size(self, uri: str) -> int | None:
        found = await self.stat(uri)
        return found.bytes if found else None

    async def stat(self, uri: str) -> Listed | None:
        """Return what a listing tells of one object: size and ETag; None for none."""
        try:
            found = await self._call("head_object", uri)
        except FileNotFoundError:
            await self._check_bucket(uri)
            return None
        return Listed(uri, int(found["ContentLength"]), _etag(found))

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        bucket, prefix = _split(folder)
        async with aclosing(self._listed(folder, Prefix=prefix)) as listed:
            async for found in listed:
                uri = f"s3://{bucket}/{found['Key']}"
                yield Listed(uri, found["Size"], _etag(found))

    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        _, start = _split(f"{folder.rstrip('/')}/")
        listed = self._listed(folder, Prefix=start + beginning, Delimiter="/")
        return {found["Key"].removeprefix(start): found["Size"] async for found in listed}

    async def put(
        self,
        source: Path,
        uri: str,
        media_type: str,
        *,
        sha256: str | None = None,
        metadata: Mapping[str, str] | None = None,
        new: bool = False,
    ) -> None:
        """Upload a file in bounded parts; S3 shows it only when it is complete.

        `metadata` becomes the object's, and `sha256` a part of it.
        """
        promised = {"sha256": sha256} if sha256 else {}
        kept = self._written(media_type, promised | dict(metadata or {}))
        with await asyncio.to_thread(FileIO, source) as file:
            parts = _Parts(file, source, sha256)
            if parts.size <= _PART_BYTES:
                async with self._body(parts.size) as body:
                    md5 = await asyncio.to_thread(parts.fill, body)
                    parts.check()
                    sent = {"Body": body, "ContentMD5": md5}
                    await self._show("put_object", uri, new=new, **sent, **kept)
            else:
                await self._put_parts(parts, uri, kept, new=new)

    async def put_text(self, text: str, uri: str, media_type: str, *, new: bool = False) -> None:
        kept = self._written(media_type, {})
        body = text.encode()
        sent = {"Body": BytesIO(body), "ContentMD5": _md5(body)}
        await self._show("put_object", uri, new=new, **sent, **kept)

    async def pieces(self, uri: str) -> AsyncGenerator[list[bytes], None]:
        """Read an object; after a break from where it was.

        Raises `FileNotFoundError`, and `Unreachable`, also when it is replaced meanwhile.
        """
        done, etag, in_vain = 0, "", 0
        while True:
            rest = {"Range": f"bytes={done}-", "IfMatch": etag} if done else {}
            answer = await self._call("get_object", uri, **rest)
            is_rest = str(answer.get("ContentRange")).startswith(f"bytes {done}-")
            if done and not (is_rest and answer.get("ETag") == etag):
                raise replaced(uri)
            etag = answer.get("ETag", "")
            try:
                async with answer["Body"] as body:
                    while chunk := await self._chunk(body):
                        done, in_vain = done + sum(map(len, chunk)), 0
                        yield chunk
                    return
            except Exception as error:  # noqa: BLE001  # the stream raises what broke it
                in_vain += 1
                if in_vain >= self._patience.attempts:
                    raise error_in_words(self._endpoint, uri, error) from None
            await self._patience.sleep(_PAUSE * 2 ** (in_vain - 1))

    async def presign(self, uri: str, expires: float) -> str:
        """Return a presigned GET, valid for `expires` seconds. A secret while it lives."""
        bucket, key = _split(uri)
        client = await self._client(bucket)
        with in_words(self._endpoint, uri):
            url = await client.generate_presigned_url(
                "get_object",
                Params={"Bucket": bucket, "Key": key},
                ExpiresIn=max(1, int(expires)),
            )
        return str(url)

    async def credentials_expiry(self, needed: float = 0) -> datetime | None:
        """Return when the credentials end by themselves, and every URL with them.

        None for keys that last. Temporary ones that end within `needed` seconds are renewed first
        where they can be: a role or an SSO login renews itself, but only in its last 15 minutes.
        """
        await self._client()
        if self._settings.key:
            return None
        with in_words(self._endpoint, "this run"):
            credentials = await self._fs.session.get_credentials()
        if not hasattr(credentials, "_expiry_time"):
            return None
        # The private names are the only ones by which the end can be known and put off.
        ends: datetime | None = credentials._expiry_time  # noqa: SLF001
        is_short = ends is None or ends < datetime.now(UTC) + timedelta(seconds=needed)
        # What a renewal has not made long enough, the next one hardly will: a person may.
        if is_short and time.monotonic() - self._renewed_at > _SECONDS_BETWEEN_RENEWALS:
            self._renewed_at = time.monotonic()
            usual = credentials._advisory_refresh_timeout  # noqa: SLF001
            credentials._advisory_refresh_timeout = max(usual, needed)  # noqa: SLF001
            # They end when they end; whoever uses them after that is told.
            with suppress(Exception):
                await credentials.get_frozen_credentials()
            credentials._advisory_refresh_timeout = usual  # noqa: SLF001
            ends = credentials._expiry_time  # noqa: SLF001
        return ends

    async def _put_parts(
        self, parts: "_Parts", uri: str, kept: Mapping[str, Any], *, new: bool
    ) -> None:
        opened = await self._call("create_multipart_upload", uri, **kept)
        upload = {"UploadId": opened["UploadId"]}
        sent: dict[int, str] = {}
        reading = asyncio.Lock()

        async def send() -> None:
            while True:
                async with self._body(_PART_BYTES) as body:
                    async with reading:
                        md5 = await asyncio.to_thread(parts.fill, body)
                        number = parts.count
                    if not body.seek(0, SEEK_END):
                        return
                    part = {"PartNumber": number, "Body": body, "ContentMD5": md5}
                    answer = await self._call("upload_part", uri, **part, **upload)
                    sent[number] = answer["ETag"]

        try:
            async with asyncio.TaskGroup() as senders:
                for _ in range(_PARTS_AT_ONCE):
                    senders.create_task(send())
            parts.check()
            ordered = [{"PartNumber": n, "ETag": etag} for n, etag in sorted(sent.items())]
            whole = {"MultipartUpload": {"Parts": ordered}}
            await self._show("complete_multipart_upload", uri, new=new, **upload, **whole)
        except BaseException as error:
            # Parts that nobody completes are invisible, and are paid for month by month.
            with suppress(Unreachable):
                await asyncio.shield(self._call("abort_multipart_upload", uri, **upload))
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    @asynccontextmanager
    async def _body(self, size: int) -> AsyncIterator[BytesIO]:
        """Give room for a body, as soon as there is some.

        Made here and not in a thread, which would keep it for itself, and closed at the end, as
        calls refer to themselves and wait for the garbage collector.
        """
        async with self._bodies:
            body = BytesIO()
            # Grown by its last byte, which spares a copy of as many zeros.
            body.seek(max(0, size - 1))
            body.write(b"\0"[:size])
            try:
                yield body
            finally:
                # Whoever is cancelled may leave a thread at work in it.
                with suppress(BufferError):
                    body.close()

    async def _show(self, method: str, uri: str, *, new: bool, **parameters: Any) -> None:
        """Make the call that shows an object, with `new` only where there is none."""
        if new:
            # Some servers ignore the condition and some refuse it: there, whoever looks right
            # before has done what can be done.
            if await self.size(uri) is not None:
                raise FileExistsError(uri)
            with suppress(Unsupported):
                await self._call(method, uri, IfNoneMatch="*", **parameters)
                return
        await self._call(method, uri, **parameters)

    async def _listed(self, folder: str, **parameters: str) -> AsyncGenerator[Any, None]:
        while True:
            page = await self._call("list_objects_v2", folder, **parameters)
            for found in page.get("Contents", ()):
                yield found
            if not page.get("IsTruncated"):
                return
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    async def _check_bucket(self, uri: str) -> None:
        """Tell a missing object from a missing bucket, which a HEAD cannot. Once a bucket."""
        bucket, _ = _split(uri)
        if bucket in self._there:
            return
        try:
            await self._call_once("head_bucket", uri)
        except Exception as error:  # noqa: BLE001
            # Some may read and write objects but not look at the bucket.
            if code_of(error) in NO_BUCKET:
                raise no_bucket(self._endpoint, uri) from None
        self._there.add(bucket)

    async def _chunk(self, body: Any) -> list[bytes]:
        """Read a few megabytes of an answer; nothing at its end."""
        pieces: list[bytes] = []
        size = 0
        loop, idle = asyncio.get_running_loop(), self._patience.idle
        async with asyncio.timeout(idle) as limit:
            while size < CHUNK_BYTES and (piece := await body.read(CHUNK_BYTES - size)):
                limit.reschedule(loop.time() + idle)
                pieces.append(piece)
                size += len(piece)
        return pieces

    async def _call(self, method: str, uri: str, **parameters: Any) -> Any:
        """Make one of S3's calls, repeated while what is in its way may pass.

        Every one of them may be repeated: an object is put whole and under the same name.
        """
        repeatedly = AsyncRetrying(
            stop=stop_after_attempt(self._patience.attempts),
            wait=wait_random_exponential(_PAUSE),
            retry=retry_if_exception(may_pass),
            sleep=self._patience.sleep,
            reraise=True,
        )
        with in_words(self._endpoint, uri, writing=method not in _READING):
            return await repeatedly(self._call_once, method, uri, **parameters)

    async def _call_once(self, method: str, uri: str, **parameters: Any) -> Any:
        bucket, key = _split(uri)
        if key and method not in _OF_BUCKETS:
            parameters["Key"] = key
        client = await self._client(bucket)
        limit = self._patience.connect + self._patience.idle
        if method == "complete_multipart_upload":
            limit = _COMPLETING
        if body := parameters.get("Body"):
            limit += body.seek(0, SEEK_END) / self._patience.slowest
            body.seek(0)
        async with asyncio.timeout(limit):
            return await getattr(client, method)(Bucket=bucket, **parameters)

    async def _client(self, bucket: str = "") -> Any:
        """Return s3fs's client for the region of a bucket, or the usual one."""
        async with self._opening:
            with in_words(self._endpoint, f"s3://{bucket}" if bucket else "this run"):
                if self._fs is None:
                    self._fs = await asyncio.to_thread(self._file_system)
                if not self._clients:
                    self._clients[""] = await self._fs.set_session()
                if bucket not in self._clients:
                    try:
                        self._clients[bucket] = await self._fs.get_s3(bucket)
                    except Exception:  # noqa: BLE001
                        # What is in the way here is in the way of the call as well, which says it.
                        return self._clients[""]
            return self._clients[bucket]

    def _file_system(self) -> Any:
        # Its import takes a second, and many runs need no bucket.
        from s3fs import S3FileSystem

        settings, patience = self._settings, self._patience
        if bundle := settings.ca_bundle:
            try:
                ssl.create_default_context(cafile=bundle)
            except OSError as error:
                raise Unreachable(
                    f"The certificates in {bundle} cannot be read: {error.strerror or 'no PEM'}",
                    hint="Name a PEM file as storage.ca_bundle in the profile.",
                ) from None
        return S3FileSystem(
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
            # Without user and password, which are no part of it.
            endpoint_url=self._endpoint if settings.endpoint_url else None,
            key=settings.key.get_secret_value() if settings.key else None,
            secret=settings.secret.get_secret_value() if settings.secret else None,
            profile=settings.aws_profile,
            # Of the two names of the region's variable, botocore knows only the second.
            session_vars={"region": ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)},
            # At AWS a bucket lies in a region of its own, for which has to be signed.
            cache_regions=settings.endpoint_url is None,
            client_kwargs={"verify": settings.ca_bundle},
            config_kwargs={
                "signature_version": "s3v4",
                "connect_timeout": patience.connect,
                # The longest that any call may take; most are given up sooner, by `_call_once`.
                "read_timeout": _COMPLETING,
                "retries": {"mode": "standard", "total_max_attempts": 1},
                "max_pool_connections": _CONNECTIONS,
                # Checksums that only AWS knows break MinIO, Ceph, B2 and others of some age.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "s3": {
                    "addressing_style": self._addressing_style(),
                    # Its MD5 proves a body; a second hash would be made in the event loop.
                    "payload_signing_enabled": False,
                },
            },
        )

    def _addressing_style(self) -> str:
        """Decide where the bucket's name stands: `https://host/bucket/` is `path`.

        Local servers have no DNS of their own. At AWS, botocore would presign for a host that
        redirects to the bucket's region, which breaks the signature of a new bucket.
        """
        style = self._settings.addressing_style
        if style != "auto":
            return style
        return "path" if self._settings.endpoint_url else "virtual"

    def _written(self, media_type: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters with which every new object is written, as S3 names them."""
        parameters: dict[str, Any] = {
            "ContentType": media_type if media_type not in _SCRIPTED else _PLAIN,
            "Metadata": dict(metadata) or None,
            "ServerSideEncryption": self._settings.encryption,
            "SSEKMSKeyId": self._settings.kms_key,
            "StorageClass": self._settings.storage_class,
        }
        return {name: value for name, value in parameters.items() if value is not None}


class _Parts:
    """A file read in parts and hashed on the way."""

    def __init__(self, file: FileIO, source: Path, sha256: str | None) -> None:
        self._file = file
        self._source = source
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self.size = os.fstat(file.fileno()).st_size
        self.count = 0

    def fill(self, body: BytesIO) -> str:
        """Read the next part into a body, which is empty at the end; return its MD5. Blocks."""
        size, md5 = 0, hashlib.md5(usedforsecurity=False)
        with body.getbuffer() as room:
            while read := self._file.readinto(room[size : size + _READ_BYTES]):
                with room[size : size + read] as piece:
                    md5.update(piece)
                    if self._sha256 is not None:
                        self._digest.update(piece)
                size += read
        body.truncate(size)
        self.count += 1
        return b64encode(md5.digest()).decode()

    def check(self) -> None:
        """Raise `Altered` when what was read is not what was to be read."""
        if self._sha256 is not None and self._digest.hexdigest() != self._sha256:
            raise Altered(self._source)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _etag(found: Mapping[str, Any]) -> str:
    return str(found.get("ETag", "")).strip('"')


def _md5(body: bytes) -> str:
    """Return the one checksum of a body that all servers compare."""
    return b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
