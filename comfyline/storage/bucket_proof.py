"""Whether a server has what it was sent: read back, where its word is not enough."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from comfyline.errors import Unreachable
from comfyline.storage.s3_bodies import Stored, receive
from comfyline.storage.s3_session import S3Session, split

_MD5_LETTERS = 32


@dataclass(frozen=True, slots=True)
class Sent:
    """A part that was sent, or an object that was sent whole, and what the server says of it."""

    number: int
    size: int
    md5: bytes
    stored: Stored

    @property
    def is_doubtful(self) -> bool:
        """Whether the ETag looks as if other bytes had arrived."""
        is_md5 = len(self.stored.etag) == _MD5_LETTERS and not self.stored.is_keyed
        return is_md5 and self.stored.etag != self.md5.hex()


class Proof:
    """Looks at objects of one session, and remembers whose ETags are no MD5s."""

    def __init__(self, session: S3Session) -> None:
        self._session = session
        self.other_etags: set[str] = set()

    async def size(self, uri: str) -> int | None:
        """The size of an object; None when there is none."""
        try:
            return int((await self._session.call("head_object", uri))["ContentLength"])
        except FileNotFoundError:
            return None

    async def is_there(self, uri: str, parts: Sequence[tuple[int, bytes]]) -> bool:
        """Whether the object is the one that was sent. Read back, as ETags differ by server."""
        if await self.size(uri) != sum(size for size, _ in parts):
            return False
        return await self._md5s(uri, parts[0][0]) == [md5 for _, md5 in parts]

    async def prove(self, uri: str, sent: Sequence[Sent]) -> None:
        """Reads an object back when its ETags look as if something else had been stored.

        Not every server checks what it is sent, and not every server's ETags are MD5s.
        """
        bucket, _ = split(uri)
        if bucket in self.other_etags or not any(one.is_doubtful for one in sent):
            return
        if await self._md5s(uri, sent[0].size) != [one.md5 for one in sent]:
            await self._session.call("delete_object", uri)
            raise Unreachable(
                f"Object storage ({self._session.endpoint}) stored something else than it was sent"
                f" as {uri}, so it was removed again",
                hint="Run again; if it stays so, check that server and what is in between.",
            )
        self.other_etags.add(bucket)

    async def _md5s(self, uri: str, part_bytes: int) -> list[bytes]:
        """The MD5 of each part of an object, as it lies there."""
        part_bytes = max(1, part_bytes)
        found = [hashlib.md5(usedforsecurity=False)]
        size = 0
        async with aclosing(receive(self._session, uri)) as batches:
            async for batch in batches:
                left = memoryview(b"".join(batch))
                while left:
                    if size == part_bytes:
                        found.append(hashlib.md5(usedforsecurity=False))
                        size = 0
                    some = left[: part_bytes - size]
                    await asyncio.to_thread(found[-1].update, some)
                    size += len(some)
                    left = left[len(some) :]
        return [one.digest() for one in found]
