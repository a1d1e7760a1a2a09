"""What lies in the folder of uploads already, found out once a process."""

import asyncio

from comfyline.storage.remote_stamps import FEW, list_folder
from comfyline.storage.s3 import Bucket


class Presence:
    """The sizes of uploads by their URI.

    The first few are asked for one by one; as soon as there are more, one listing tells of all.
    """

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self._bucket = bucket
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._asked: set[str] = set()
        self._listing = asyncio.Lock()
        self._is_listed = False
        self._is_whole = False

    async def size(self, uri: str) -> int | None:
        """Return the size of an upload; None when it is not there. Raises `Unreachable`."""
        if uri in self._sizes:
            return self._sizes[uri]
        self._asked.add(uri)
        # Many ask in the same moment, and each counts before the first is answered.
        await asyncio.sleep(0)
        if len(self._asked) > FEW:
            async with self._listing:
                if not self._is_listed:
                    await self._list()
        if uri in self._sizes or self._is_whole:
            return self._sizes.get(uri)
        size = await self._bucket.size(uri)
        if size is not None:
            self._sizes[uri] = size
        return size

    def put(self, uri: str, size: int) -> None:
        """Take notice of an upload that has just been made."""
        self._sizes[uri] = size

    async def _list(self) -> None:
        found, self._is_whole = await list_folder(
            self._bucket, self._folder, None, lambda: len(self._asked)
        )
        self._sizes |= {uri: one.bytes for uri, one in found.items() if uri not in self._sizes}
        self._is_listed = True
