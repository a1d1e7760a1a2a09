"""Uploaded inputs that nobody needs any more: found by their names, and removed."""

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from comfyline.storage.bucket import Bucket
from comfyline.storage.parts import all_of
from comfyline.storage.place import Listed

_UPLOAD = re.compile(r"([0-9a-f]{64})\.([a-z0-9]+)")
"""How `uploads` names what it puts there; anything else is somebody's own."""
_COPIES = {"jpg", "png", "webp"}
"""What converted copies of inputs end in."""
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class OldUploads:
    """What of a folder of uploads can go, and what stays although it is old enough.

    `needed` are inputs of jobs that RunComfy has not finished, `foreign` what others put there.
    """

    removable: tuple[Listed, ...]
    needed: int
    foreign: int

    @property
    def bytes(self) -> int:
        """The size of what can go."""
        return sum(one.bytes for one in self.removable)


async def find_old(
    bucket: Bucket, folder: str, before: datetime, needed: Collection[str], *, copies: bool
) -> OldUploads:
    """Lists the uploads that were last written before a moment.

    `needed` holds the SHA-256 of inputs that stay. With `copies` some job needs a converted copy,
    and as nobody knows which upload that is, all that may be one stay. Raises `Unreachable`.
    """
    prefix = f"{folder.rstrip('/')}/"
    removable: list[Listed] = []
    kept = foreign = 0
    async with aclosing(bucket.files_in(prefix)) as listed:
        async for one in listed:
            if one.modified >= before:
                continue
            own = _UPLOAD.fullmatch(one.uri.removeprefix(prefix))
            if own is None:
                foreign += 1
            elif own[1] in needed or (copies and own[2] in _COPIES):
                kept += 1
            else:
                removable.append(one)
    return OldUploads(tuple(removable), kept, foreign)


async def remove(
    bucket: Bucket, uploads: Sequence[Listed], may_go_on: Callable[[], Awaitable[bool]]
) -> int:
    """Removes uploads, a few at a time, and says how many; stops as soon as it may not go on.

    Raises `Unreachable`.
    """
    for first in range(0, len(uploads), _AT_ONCE):
        if not await may_go_on():
            return first
        await all_of(bucket.remove(one.uri) for one in uploads[first : first + _AT_ONCE])
    return len(uploads)
