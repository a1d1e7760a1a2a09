"""S3 and what speaks like it: streamed, in bounded memory, with Signature V4."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import ClientError

from comfyline.broken_connections import why_not
from comfyline.errors import Unreachable
from comfyline.files import disk_full, is_full
from comfyline.storage.bucket_errors import code_of, in_words, no_bucket
from comfyline.storage.bucket_options import BucketOptions, Patience
from comfyline.storage.bucket_upload import Uploading
from comfyline.storage.open_uploads import OpenUploads
from comfyline.storage.parts import all_of
from comfyline.storage.place import Listed
from comfyline.storage.presigned_credentials import Expiry
from comfyline.storage.s3_bodies import receive
from comfyline.storage.s3_driver import CONNECTIONS, Access
from comfyline.storage.s3_session import S3Session, split

_PUTS_AT_ONCE = 8


class Bucket:
    """Files under `s3://` URIs; used as an async context manager.

    Without `key` and `secret` the AWS chain of the machine decides (environment, profile, role).
    `open_uploads` is the folder in which uploads in parts are noted until they are over.
    """

    def __init__(
        self,
        endpoint_url: str | None,
        key: str | None,
        secret: str | None,
        options: BucketOptions = BucketOptions(),  # noqa: B008  # frozen
        patience: Patience = Patience(),  # noqa: B008
        open_uploads: Path | None = None,
    ) -> None:
        self._session = S3Session(Access(endpoint_url, key, secret, options, patience))
        self._options = options
        self._notes = OpenUploads(open_uploads)
        self._uploading = Uploading(self._session, self._notes)
        self._putting = asyncio.Semaphore(_PUTS_AT_ONCE)
        self._expiry = Expiry()
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
        await self._session.close()

    async def size(self, uri: str) -> int | None:
        """The object's size in bytes, None when there is none."""
        found = await self.stamp(uri)
        return found.bytes if found else None

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        """The same for many objects, in their order."""
        found: list[int | None] = []
        for start in range(0, len(uris), CONNECTIONS):
            some = uris[start : start + CONNECTIONS]
            found += await all_of(self.size(uri) for uri in some)
        return found

    async def stamp(self, uri: str) -> Listed | None:
        """What a listing tells of one object: size, ETag and time, by a HEAD; None for none."""
        try:
            found = await self._session.call("head_object", uri)
        except FileNotFoundError:
            await self._check_bucket(uri)
            return None
        return Listed(uri, int(found["ContentLength"]), found["LastModified"], _etag(found))

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """All objects whose names begin with a prefix, however many; a thousand to a call."""
        bucket, prefix = split(folder)
        more: dict[str, str] = {}
        while True:
            page = await self._session.call("list_objects_v2", folder, Prefix=prefix, **more)
            for found in page.get("Contents", ()):
                uri = f"s3://{bucket}/{found['Key']}"
                yield Listed(uri, found["Size"], found["LastModified"], _etag(found))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        """The objects right under a prefix whose names begin so: name and size."""
        _, start = split(f"{folder.rstrip('/')}/")
        found: dict[str, int] = {}
        more: dict[str, str] = {}
        while True:
            page = await self._session.call(
                "list_objects_v2", folder, Prefix=start + beginning, Delimiter="/", **more
            )
            for one in page.get("Contents", ()):
                found[one["Key"].removeprefix(start)] = one["Size"]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

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
        """Uploads a file in bounded parts; S3 shows it only when it is complete.

        `metadata` becomes the object's, and `sha256` a part of it. With `new` an object that is
        there already is left alone: it raises `FileExistsError`. With `sha256` nothing is shown
        when the file turns out to be another one: it raises `Altered`. Raises `OSError` when
        the file itself cannot be read.
        """
        promised = {"sha256": sha256} if sha256 else {}
        kept = self._options.written(media_type, promised | dict(metadata or {}))
        async with self._putting:
            await self._uploading.put_file(source, uri, kept, sha256, new=new)

    async def put_text(self, text: str, uri: str, media_type: str, *, new: bool = False) -> None:
        """Uploads a small text. With `new` it raises `FileExistsError` as `put` does."""
        kept = self._options.written(media_type, {})
        await self._uploading.put_bytes(text.encode(), uri, kept, new=new)

    async def remove(self, uri: str) -> None:
        """Deletes an object; one that is not there is no error."""
        await self._session.call("delete_object", uri)

    async def sweep(self, folder: str) -> int:
        """Ends the uploads in parts that dead processes of this machine left; how many those were.

        Those of other programs, which may be years old or under way, are none of its business.
        """
        swept = 0
        prefix, endpoint = f"{folder.rstrip('/')}/", self._session.endpoint
        found = await asyncio.to_thread(lambda: [*self._notes.abandoned(endpoint, prefix)])
        for note, upload in found:
            # Not everybody may: it stays where it is then, and is tried again by the next run.
            with suppress(Unreachable, OSError):
                await self._uploading.abort(upload, note)
                swept += 1
        return swept

    async def get(self, uri: str, target: Path) -> None:
        """Downloads an object as a stream; a broken one leaves no file.

        Raises `FileNotFoundError`.
        """
        async with aclosing(receive(self._session, uri)) as batches:
            first: list[bytes] = await anext(batches, [])
            try:
                with await asyncio.to_thread(target.open, "wb") as file:
                    await asyncio.to_thread(file.writelines, first)
                    async for batch in batches:
                        await asyncio.to_thread(file.writelines, batch)
            except OSError as error:
                await asyncio.to_thread(_discard, target)
                if is_full(error):
                    raise disk_full(target.parent) from error
                reason = why_not(error)
                raise Unreachable(f"{target} cannot be written: {reason}") from error
            except BaseException:
                await asyncio.to_thread(_discard, target)
                raise

    async def read(self, uri: str) -> AsyncGenerator[bytes, None]:
        """The object's bytes, about a megabyte at a time. Raises `FileNotFoundError`."""
        async with aclosing(receive(self._session, uri)) as batches:
            async for batch in batches:
                yield b"".join(batch)

    async def sha256(self, uri: str) -> str | None:
        """The hash of the object's bytes, None when there is none."""
        digest = hashlib.sha256()
        try:
            async with aclosing(self.read(uri)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(digest.update, chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    async def presign(self, uri: str, expires: float) -> str:
        """A presigned GET (Signature V4), valid for `expires` seconds. A secret while it lives."""
        return await self._session.presign(uri, expires)

    async def credentials_expiry(self, needed: float = 0) -> datetime | None:
        """When the credentials end by themselves (temporary ones do), and every URL with them.

        They are renewed first where they end within `needed` seconds and can be.
        """
        credentials = await self._session.credentials()
        with in_words(self._session.endpoint, "this run"):
            return await self._expiry.of(credentials, needed)

    async def _check_bucket(self, uri: str) -> None:
        """Tells a missing object from a missing bucket, which a HEAD cannot. Once a bucket."""
        bucket, _ = split(uri)
        if bucket in self._there:
            return
        try:
            await self._session.call_once("head_bucket", uri)
        except ClientError as error:
            # Some may read and write objects but not look at the bucket.
            if code_of(error) in {"404", "NoSuchBucket"}:
                raise no_bucket(self._session.endpoint, uri) from None
        self._there.add(bucket)


def _etag(found: Mapping[str, Any]) -> str:
    return str(found.get("ETag", "")).strip('"')


def _discard(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
