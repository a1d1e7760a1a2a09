"""S3 and what speaks like it, through s3fs: bounded memory, Signature V4, one session a process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import s3fs
from botocore.exceptions import BotoCoreError, ClientError

from comfyline.errors import Unreachable

# s3fs's own defaults hold ten parts of 50 MB, twice: about 1 GB for a large file.
_PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 2
_READ_BYTES = 1024 * 1024


class Bucket:
    """Files under `s3://` URIs; used as an async context manager.

    Without `key` and `secret` the AWS chain of the machine decides (environment, profile, role).
    """

    def __init__(self, endpoint_url: str | None, key: str | None, secret: str | None) -> None:
        self._endpoint = endpoint_url or "AWS"
        self._fs: Any = s3fs.S3FileSystem(
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
            endpoint_url=endpoint_url,
            key=key,
            secret=secret,
            config_kwargs={
                "signature_version": "s3v4",
                # Checksums that only AWS knows break MinIO, Ceph, B2 and others of some age.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                # Names with dots do not fit a wildcard certificate, and local servers have no DNS.
                **({"s3": {"addressing_style": "path"}} if endpoint_url else {}),
            },
        )
        self._session: Any = None
        self._opening = asyncio.Lock()

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
        fs = await self._open()
        try:
            with self._said(uri):
                return int((await fs._info(uri, refresh=True))["size"])  # noqa: SLF001  # s3fs's async API
        except FileNotFoundError:
            return None

    async def put(self, source: Path, uri: str, media_type: str) -> None:
        """Uploads a file in bounded parts; S3 shows it only when it is complete."""
        fs = await self._open()
        with self._said(uri):
            await fs._put_file(  # noqa: SLF001
                str(source),
                uri,
                chunksize=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
                ContentType=media_type,
            )

    async def put_text(self, text: str, uri: str, media_type: str) -> None:
        """Uploads a small text."""
        fs = await self._open()
        with self._said(uri):
            await fs._pipe_file(uri, text.encode(), ContentType=media_type)  # noqa: SLF001

    async def get(self, uri: str, target: Path) -> None:
        """Downloads an object; one request at a time keeps the memory flat."""
        fs = await self._open()
        with self._said(uri):
            await fs._get_file(uri, str(target), max_concurrency=1)  # noqa: SLF001

    async def read(self, uri: str) -> AsyncIterator[bytes]:
        """The object's bytes, a piece at a time. Raises `FileNotFoundError`."""
        fs = await self._open()
        with self._said(uri):
            file = await fs.open_async(uri, "rb")
            try:
                while chunk := await file.read(_READ_BYTES):
                    yield chunk
            finally:
                await file.close()

    async def presign(self, uri: str, expires: float) -> str:
        """A presigned GET (Signature V4), valid for `expires` seconds. A secret while it lives."""
        fs = await self._open()
        with self._said(uri):
            return str(await fs._url(uri, expires=int(expires)))  # noqa: SLF001

    async def _open(self) -> Any:
        async with self._opening:
            if self._session is None:
                with self._said(self._endpoint):
                    self._session = await self._fs.set_session()
        return self._fs

    @contextmanager
    def _said(self, uri: str) -> Iterator[None]:
        """Turns what the driver raises into an error that says where and what to do."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (BotoCoreError, ClientError, OSError) as error:
            raise Unreachable(
                f"Object storage ({self._endpoint}) fails at {uri}: {error}",
                hint="Check the endpoint, the bucket and the AWS_* variables.",
            ) from error
