"""What lies in a bucket without its being read, found out in as few requests as it takes."""

import asyncio
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field

from comfyline.errors import Unreachable
from comfyline.storage.place import Listed
from comfyline.storage.s3 import Bucket

_FEW = 4
_PAGE = 1000
"""Objects that one request lists (S3, `ListObjectsV2`)."""
_HEADS_AT_ONCE = 16


@dataclass(eq=False, slots=True)
class _Folder:
    asked: set[str] = field(default_factory=set)
    found: dict[str, Listed] = field(default_factory=dict)
    listing: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_listed: bool = False
    is_whole: bool = False


class ObjectIndex:
    """The objects that were asked for in one process.

    Of a folder, the first few are asked for one by one; as soon as there are more, one listing
    tells of all.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._folders: dict[str, _Folder] = defaultdict(_Folder)
        self._heads = asyncio.Semaphore(_HEADS_AT_ONCE)

    async def find(self, uri: str) -> Listed | None:
        """Return what is known of an object; None when it is not there. Raises `Unreachable`."""
        name = uri.rpartition("/")[0]
        folder = self._folders[name]
        if uri not in folder.found:
            folder.asked.add(uri)
            # Many ask in the same moment, and each counts before the first is answered.
            await asyncio.sleep(0)
            if len(folder.asked) > _FEW:
                async with folder.listing:
                    if not folder.is_listed:
                        await self._list(name, folder)
        if uri not in folder.found and not folder.is_whole:
            async with self._heads:
                if one := await self._bucket.stat(uri):
                    folder.found[uri] = one
        return folder.found.get(uri)

    async def _list(self, name: str, folder: _Folder) -> None:
        """List a folder, unless that takes more requests than asking for each, or is forbidden."""
        folder.is_listed = True
        count = 0
        try:
            async with aclosing(self._bucket.files_in(f"{name}/")) as listed:
                async for one in listed:
                    count += 1
                    # What lies below, which may be the whole bucket, is another folder's.
                    if one.uri.rpartition("/")[0] == name:
                        folder.found[one.uri] = one
                    if count >= _PAGE * len(folder.asked):
                        return
        except Unreachable:
            return
        folder.is_whole = True
