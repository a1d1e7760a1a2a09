"""A file or a text becomes an object: whole, or not at all.

A small one is one PUT. A large one goes in parts, several at a time, which are completed together
or aborted. The server checks every body by its MD5, the one checksum that all of them know.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from comfyline.errors import Unreachable
from comfyline.storage.bucket_errors import Unsupported, Vanished, code_of, in_words
from comfyline.storage.bucket_proof import Proof, Sent
from comfyline.storage.open_uploads import OpenUpload, OpenUploads
from comfyline.storage.parts import PART_BYTES, Buffers, Part, Parts, all_of, content_md5
from comfyline.storage.s3_bodies import Stored, send
from comfyline.storage.s3_retry import persistently, wait_before
from comfyline.storage.s3_session import S3Session

T = TypeVar("T")

_BUFFERS = 10
_PARTS_AT_ONCE = 4
_DONE_BEFORE = frozenset({"412", "InvalidPart", "NoSuchUpload", "PreconditionFailed"})
"""What is answered when a call is repeated whose first answer was lost, but not its effect."""


class Uploading:
    """All uploads of one session; together they hold a few parts in memory."""

    def __init__(self, session: S3Session, notes: OpenUploads) -> None:
        self._session = session
        self._notes = notes
        self._buffers = Buffers(_BUFFERS)
        self._proof = Proof(session)

    async def put_file(
        self, source: Path, uri: str, kept: Mapping[str, Any], sha256: str | None, *, new: bool
    ) -> None:
        """Uploads a file; `kept` is what the object has besides its bytes.

        Raises `OSError` for the file, `Altered` when it has another `sha256`, and with `new`
        `FileExistsError` when there is an object already.
        """
        with await asyncio.to_thread(FileIO, source) as file:
            attempt = 1
            while True:
                parts = Parts(file, source, sha256, self._buffers)
                try:
                    return await self._put(parts, uri, kept, new=new)
                except Vanished:
                    # rclone gives up all parts when one is broken off.
                    if attempt >= self._session.patience.attempts:
                        raise
                await wait_before(attempt, self._session.patience)
                attempt += 1
                await asyncio.to_thread(file.seek, 0)

    async def put_bytes(
        self, content: bytes, uri: str, kept: Mapping[str, Any], *, new: bool
    ) -> None:
        """Uploads a small content that is in memory."""
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        await self._put_whole(memoryview(content), md5, uri, kept, new=new)

    async def _put(self, parts: Parts, uri: str, kept: Mapping[str, Any], *, new: bool) -> None:
        first = await parts.next()
        if first is None or first.size == PART_BYTES:
            await self._put_parts(first, parts, uri, kept, new=new)
            return
        is_free = False
        try:
            parts.prove()
            await self._put_whole(first.body, first.md5, uri, kept, new=new)
            is_free = True
        finally:
            self._buffers.give_back(first.buffer, is_free=is_free)

    async def _put_whole(
        self, body: memoryview, md5: bytes, uri: str, kept: Mapping[str, Any], *, new: bool
    ) -> None:
        async def show(**condition: str) -> Stored:
            checked = {"ContentMD5": content_md5(md5), **condition}
            return await send(self._session, "put_object", uri, body, **kept, **checked)

        stored = await self._shown(uri, show, [(len(body), md5)], new=new)
        if stored:
            await self._proof.prove(uri, [Sent(1, len(body), md5, stored)])

    async def _put_parts(
        self, first: Part | None, parts: Parts, uri: str, kept: Mapping[str, Any], *, new: bool
    ) -> None:
        try:
            opened = await self._session.call("create_multipart_upload", uri, **kept)
        except BaseException:
            if first:
                self._buffers.give_back(first.buffer, is_free=True)
            raise
        upload = opened["UploadId"]
        begun = OpenUpload(self._session.endpoint, uri, upload)
        note: Path | None = None
        try:
            note = await asyncio.to_thread(self._notes.note, begun)
            sent = await self._send_parts(first, parts, uri, upload)
            parts.prove()
            await self._complete(uri, upload, sent, new=new)
        except BaseException:
            # Parts that nobody completes are invisible, and are paid for month by month.
            with suppress(Unreachable):
                await asyncio.shield(self.abort(begun, note))
            raise
        if note:
            await asyncio.to_thread(note.unlink, missing_ok=True)
        await self._proof.prove(uri, sent)

    async def abort(self, upload: OpenUpload, note: Path | None) -> None:
        """Ends an upload that nobody completes; one that is gone already is no error."""
        which = upload.upload_id
        with suppress(Vanished):
            await self._session.call("abort_multipart_upload", upload.uri, UploadId=which)
        if note:
            await asyncio.to_thread(note.unlink, missing_ok=True)

    async def _send_parts(
        self, first: Part | None, parts: Parts, uri: str, upload: str
    ) -> list[Sent]:
        sent: list[Sent] = []
        ahead = [first] if first else []

        async def worker() -> None:
            try:
                while part := ahead.pop() if ahead else await parts.next():
                    sent.append(await self._send_part(part, uri, upload))
            finally:
                # Normally the end; else the others need not go on.
                parts.end()

        await all_of(worker() for _ in range(_PARTS_AT_ONCE))
        return sorted(sent, key=lambda one: one.number)

    async def _send_part(self, part: Part, uri: str, upload: str) -> Sent:
        there = {"UploadId": upload, "PartNumber": part.number, "ContentMD5": part.content_md5}
        once = partial(send, self._session, "upload_part", uri, part.body, **there)
        is_free = False
        try:
            with in_words(self._session.endpoint, uri, writing=True):
                stored = await persistently(once, self._session.patience)
            is_free = True
        finally:
            self._buffers.give_back(part.buffer, is_free=is_free)
        return Sent(part.number, part.size, part.md5, stored)

    async def _complete(self, uri: str, upload: str, sent: Sequence[Sent], *, new: bool) -> None:
        named = [{"PartNumber": one.number, "ETag": one.stored.etag} for one in sent]
        parts = {"UploadId": upload, "MultipartUpload": {"Parts": named}}

        async def show(**condition: str) -> None:
            await self._session.call_once("complete_multipart_upload", uri, **parts, **condition)

        await self._shown(uri, show, [(one.size, one.md5) for one in sent], new=new)

    async def _shown(
        self,
        uri: str,
        show: Callable[..., Awaitable[T]],
        parts: Sequence[tuple[int, bytes]],
        *,
        new: bool,
    ) -> T | None:
        """The answer to the call that shows an object; None when only the answer was lost.

        `parts` are the size and the MD5 of each. With `new` it is shown only where there is none.
        """
        if new:
            # Some servers refuse the condition and some ignore it: with them, who looks right
            # before has done what can be done.
            if await self._proof.size(uri) is not None:
                raise FileExistsError(uri)
            with suppress(Unsupported):
                return await self._shown_once(uri, partial(show, IfNoneMatch="*"), parts)
        return await self._shown_once(uri, show, parts)

    async def _shown_once(
        self, uri: str, show: Callable[[], Awaitable[T]], parts: Sequence[tuple[int, bytes]]
    ) -> T | None:
        tries = 0

        async def counted() -> T:
            nonlocal tries
            tries += 1
            return await show()

        with in_words(self._session.endpoint, uri, writing=True):
            try:
                return await persistently(counted, self._session.patience)
            except ClientError as error:
                is_late = tries > 1 and code_of(error) in _DONE_BEFORE
                if is_late and await self._proof.is_there(uri, parts):
                    return None
                raise
