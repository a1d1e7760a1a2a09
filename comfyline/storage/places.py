"""Which place an address belongs to."""

from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import urlsplit

from comfyline.errors import InputInvalid, Problem
from comfyline.storage.drivers import address_mistake
from comfyline.storage.folder import Folder
from comfyline.storage.place import Place, folder_path
from comfyline.storage.remote_folder import RemoteFolder
from comfyline.storage.s3 import Bucket


class Places:
    """All storage of one process, by scheme."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._folder = Folder()
        self._remotes: dict[str, RemoteFolder] = {}

    async def close(self) -> None:
        """Ends the connections to storage of other kinds; the bucket is its opener's."""
        for remote in self._remotes.values():
            await remote.close()
        self._remotes.clear()

    def of(self, uri: str) -> Place:
        """The place of an address. Raises `InputInvalid` where there is none for its scheme."""
        if uri.startswith("s3://"):
            return self.bucket
        if uri.startswith("file://"):
            return self._folder
        scheme, separator, _ = uri.partition("://")
        base = f"{scheme}://{urlsplit(uri).netloc}"
        if base not in self._remotes:
            # Nothing that lies in memory is an output, but a test may put it there.
            mistake = "" if scheme == "memory" and separator else address_mistake(uri)
            if mistake:
                hint = "use a folder, s3://… or an address that fsspec has a driver for"
                raise InputInvalid([Problem("output.to", mistake, hint)])
            self._remotes[base] = RemoteFolder(base)
        return self._remotes[base]

    def of_folder(self, folder: str, root: str = "") -> Place:
        """The place of a folder for outputs, which may be written as a plain path.

        A local one is confined to `root`, or to itself: no link leads what is put there elsewhere.
        """
        if "://" in folder and not folder.startswith("file://"):
            return self.of(folder)
        return Folder(folder_path(root or folder))

    async def sizes(self, uris: Sequence[str]) -> dict[str, int | None]:
        """The size of each of many files, None where there is none, in as few steps as it takes."""
        by_place: dict[Place, list[str]] = defaultdict(list)
        for uri in dict.fromkeys(uris):
            by_place[self.of(uri)].append(uri)
        found: dict[str, int | None] = {}
        for place, some in by_place.items():
            found |= zip(some, await place.sizes(some), strict=True)
        return found
