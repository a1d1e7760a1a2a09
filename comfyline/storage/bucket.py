"""S3 and what speaks like it, through s3fs: bounded memory, Signature V4, one session a process."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import s3fs
from aiobotocore.session import AioSession

from comfyline.errors import Unreachable
from comfyline.storage.bucket_errors import in_words, no_bucket, shown_endpoint
from comfyline.storage.marks import add_mark, marked_with
from comfyline.storage.parts import Parts, all_of
from comfyline.storage.place import Listed

_PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 2
_PUTS_AT_ONCE = 6
"""Together with the parts of each, this bounds what uploads hold in memory."""
_READ_BYTES = 1024 * 1024
_LOOKS_AT_ONCE = 32
_ATTEMPTS = 3
_ABANDONED = timedelta(hours=24)


class Bucket:
    """Files under `s3://` URIs; used as an async context manager.

    Without `key` and `secret` the AWS chain of the machine decides (environment, profile, role).
    """

    def __init__(self, endpoint_url: str | None, key: str | None, secret: str | None) -> None:
        self._endpoint = shown_endpoint(endpoint_url)
        self._fs: Any = s3fs.S3FileSystem(
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
            endpoint_url=endpoint_url,
            key=key,
            secret=secret,
            # Of the two names of the region's variable, botocore knows only the second.
            session=AioSession(
                session_vars={
                    "region": ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
                }
            ),
            config_kwargs={
                "signature_version": "s3v4",
                # A dead endpoint is told in seconds; who asked decides whether to ask again.
                "connect_timeout": 10,
                "read_timeout": 30,
                "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
                "max_pool_connections": _LOOKS_AT_ONCE,
                # Checksums that only AWS knows break MinIO, Ceph, B2 and others of some age.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                # Local servers have no DNS. At AWS, botocore would presign for a host that
                # redirects to the bucket's region, which breaks the signature of a new bucket.
                "s3": {"addressing_style": "path" if endpoint_url else "virtual"},
            },
        )
        # s3fs repeats what botocore has repeated: once is enough.
        self._fs.retries = 1
        self._session: Any = None
        self._opening = asyncio.Lock()
        self._putting = asyncio.Semaphore(_PUTS_AT_ONCE)
        self._there: set[str] = set()

    async def __aenter__(self) -> Self:
        """Opens nothing until the first call: many runs need no bucket at all."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the session."""
        if self._session is not None:
            await self._session.close()

    async def size(self, uri: str) -> int | None:
        """The object's size in bytes, None when there is none."""
        try:
            return int((await self._call("head_object", uri))["ContentLength"])
        except FileNotFoundError:
            await self._check_bucket(uri)
            return None

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        """The same for many objects, in their order."""
        found: list[int | None] = []
        for start in range(0, len(uris), _LOOKS_AT_ONCE):
            some = uris[start : start + _LOOKS_AT_ONCE]
            found += await all_of(self.size(uri) for uri in some)
        return found

    async def put(
        self, source: Path, uri: str, media_type: str, *, sha256: str | None = None
    ) -> None:
        """Uploads a file in bounded parts; S3 shows it only when it is complete.

        With `sha256` nothing is shown when the file turns out to be another one: it raises
        `InputInvalid`. Raises `OSError` when the file itself cannot be read.
        """
        async with self._putting:
            with await asyncio.to_thread(source.open, "rb") as file:
                parts = Parts(file, _PART_BYTES)
                first, second = await parts.next(), await parts.next()
                if not second:
                    parts.prove(sha256, source)
                    await self._put_bytes(first, uri, media_type)
                else:
                    await self._put_parts([first, second], parts, uri, media_type, sha256, source)

    async def put_text(self, text: str, uri: str, media_type: str) -> None:
        """Uploads a small text."""
        await self._put_bytes(text.encode(), uri, media_type)

    async def sweep(self, folder: str) -> int:
        """Ends uploads in parts that nobody completes; how many those were.

        Nothing tells whose they are, so only those count that began long ago.
        """
        long_ago = datetime.now(UTC) - _ABANDONED
        swept = 0
        # Not every storage lists them, and not everybody may: they stay where they are then.
        with suppress(Unreachable, OSError):
            fs = await self._open()
            bucket, prefix, _ = fs.split_path(folder)
            listed = await fs._call_s3(  # noqa: SLF001  # s3fs's async API
                "list_multipart_uploads", Bucket=bucket, Prefix=prefix
            )
            for upload in listed.get("Uploads", []):
                if upload["Initiated"] < long_ago:
                    uri = f"s3://{bucket}/{upload['Key']}"
                    await self._call("abort_multipart_upload", uri, UploadId=upload["UploadId"])
                    swept += 1
        return swept

    async def get(self, uri: str, target: Path) -> None:
        """Downloads an object, a piece at a time. Raises `FileNotFoundError`."""
        chunks = self.read(uri)
        try:
            first = await anext(chunks, b"")
            with await asyncio.to_thread(target.open, "wb") as file:
                await asyncio.to_thread(file.write, first)
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Unreachable(f"{target} cannot be written: {reason}") from error
        finally:
            await chunks.aclose()

    async def read(self, uri: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes, a piece at a time. Raises `FileNotFoundError`."""
        body = (await self._call("get_object", uri))["Body"]
        try:
            while True:
                with in_words(self._endpoint, uri):
                    chunk = await body.read(_READ_BYTES)
                if not chunk:
                    return
                yield chunk
        finally:
            body.close()

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """All objects whose names begin with a prefix, however many."""
        fs = await self._open()
        bucket, prefix, _ = fs.split_path(folder)
        more: dict[str, str] = {}
        while True:
            with in_words(self._endpoint, folder):
                page = await fs._call_s3(  # noqa: SLF001
                    "list_objects_v2", Bucket=bucket, Prefix=prefix, **more
                )
            for found in page.get("Contents", ()):
                yield Listed(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def sha256(self, uri: str) -> str | None:
        """The hash of the object's bytes, None when there is none."""
        digest = hashlib.sha256()
        try:
            async with aclosing(self.read(uri)) as chunks:
                async for chunk in chunks:
                    digest.update(chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    async def presign(self, uri: str, expires: float, mark: str = "") -> str:
        """A presigned GET (Signature V4), valid for `expires` seconds. A secret while it lives.

        `mark` becomes the signed parameter `x-comfyline-mark`: S3 ignores parameters that begin
        with `x-`, and writes them to its access log.
        """
        fs = await self._open()
        with in_words(self._endpoint, uri), marked_with(mark):
            return str(await fs._url(uri, expires=max(1, int(expires))))  # noqa: SLF001  # s3fs's async API

    async def _put_bytes(self, content: bytes, uri: str, media_type: str) -> None:
        await self._call("put_object", uri, Body=content, ContentType=_type(media_type))

    async def _put_parts(
        self,
        ahead: list[bytes],
        parts: Parts,
        uri: str,
        media_type: str,
        sha256: str | None,
        source: Path,
    ) -> None:
        """Uploads `ahead` and what `parts` still holds as one object, or nothing at all."""
        opened = await self._call("create_multipart_upload", uri, ContentType=_type(media_type))
        upload = {"UploadId": opened["UploadId"]}
        done: list[dict[str, Any]] = []
        try:
            while ahead:
                numbered = list(enumerate(ahead, len(done) + 1))
                sent = await all_of(
                    self._call("upload_part", uri, PartNumber=number, Body=part, **upload)
                    for number, part in numbered
                )
                done += [
                    {"PartNumber": number, "ETag": one["ETag"]}
                    for (number, _), one in zip(numbered, sent, strict=True)
                ]
                ahead = [part for _ in range(_PARTS_AT_ONCE) if (part := await parts.next())]
            parts.prove(sha256, source)
            await self._call(
                "complete_multipart_upload", uri, MultipartUpload={"Parts": done}, **upload
            )
        except BaseException:
            # Parts that nobody completes are invisible, and are paid for month by month.
            with suppress(Unreachable):
                await asyncio.shield(self._call("abort_multipart_upload", uri, **upload))
            raise

    async def _check_bucket(self, uri: str) -> None:
        """Tells a missing object from a missing bucket, which a HEAD cannot. Once a bucket."""
        bucket = uri.split("/")[2]
        if bucket in self._there:
            return
        fs = await self._open()
        try:
            await fs._call_s3("head_bucket", Bucket=bucket)  # noqa: SLF001
        except FileNotFoundError:
            raise no_bucket(self._endpoint, uri) from None
        except OSError:
            pass  # Some may read and write objects but not look at the bucket.
        self._there.add(bucket)

    async def _call(self, method: str, uri: str, **parameters: Any) -> Any:
        fs = await self._open()
        bucket, key, _ = fs.split_path(uri)
        writing = method not in {"head_object", "get_object"}
        with in_words(self._endpoint, uri, writing=writing):
            return await fs._call_s3(method, Bucket=bucket, Key=key, **parameters)  # noqa: SLF001

    async def _open(self) -> Any:
        async with self._opening:
            if self._session is None:
                with in_words(self._endpoint, "this run"):
                    self._session = await self._fs.set_session()
                # Registered here, because s3fs passes no further parameter on to the signer.
                self._session.meta.events.register("before-sign.s3.GetObject", add_mark)
        return self._fs


def _type(media_type: str) -> str:
    return media_type or "application/octet-stream"
