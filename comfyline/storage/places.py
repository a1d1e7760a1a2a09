"""Which place an address belongs to."""

from collections import defaultdict
from collections.abc import Sequence

from comfyline.errors import InputInvalid, Problem
from comfyline.storage.bucket import Bucket
from comfyline.storage.folder import Folder
from comfyline.storage.place import Place


class Places:
    """All storage of one process, by scheme."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._folder = Folder()

    def of(self, uri: str) -> Place:
        """The place of an address. Raises `InputInvalid` for a scheme that is not known."""
        if uri.startswith("s3://"):
            return self.bucket
        if uri.startswith("file://"):
            return self._folder
        raise InputInvalid([Problem(uri, "is no place for outputs", "use a folder or s3://…")])

    def of_folder(self, folder: str) -> Place:
        """The place of a folder for outputs, which may be written as a plain path."""
        return self.of(folder) if "://" in folder else self._folder

    async def sizes(self, uris: Sequence[str]) -> dict[str, int | None]:
        """The size of each of many files, None where there is none, in as few steps as it takes."""
        by_place: dict[Place, list[str]] = defaultdict(list)
        for uri in dict.fromkeys(uris):
            by_place[self.of(uri)].append(uri)
        found: dict[str, int | None] = {}
        for place, some in by_place.items():
            found |= zip(some, await place.sizes(some), strict=True)
        return found
