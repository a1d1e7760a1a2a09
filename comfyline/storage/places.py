"""Which place an address belongs to."""

from collections import defaultdict
from collections.abc import Sequence

from comfyline.errors import InputInvalid, Problem
from comfyline.storage.fsspec_place import FsspecPlace, address_mistake
from comfyline.storage.local import Folder, link_mistake
from comfyline.storage.place import Place, folder_path, is_local
from comfyline.storage.s3 import Bucket


class Places:
    """All storage of one process, by scheme."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._folder = Folder()
        self._others = FsspecPlace()

    def of(self, uri: str) -> Place:
        """Return the place of an address. Raises `InputInvalid` where there is none for it."""
        if uri.startswith("s3://"):
            return self.bucket
        if uri.startswith("file://"):
            return self._folder
        if mistake := address_mistake(uri):
            hint = "use a folder, s3://…, gs://… or az://…"
            raise InputInvalid([Problem("output.to", mistake, hint)])
        return self._others

    def of_folder(self, folder: str, root: str = "") -> Place:
        """Return the place of a folder for outputs, which may be written as a plain path.

        A local one is confined to `root`, or to itself: no link leads what is put there elsewhere.
        """
        return Folder(folder_path(root or folder)) if is_local(folder) else self.of(folder)

    async def sizes(self, uris: Sequence[str]) -> dict[str, int | None]:
        """Return the size of each of many files, None where there is none, in as few steps."""
        by_place: dict[Place, list[str]] = defaultdict(list)
        for uri in dict.fromkeys(uris):
            by_place[self.of(uri)].append(uri)
        found: dict[str, int | None] = {}
        for place, some in by_place.items():
            found |= zip(some, await place.sizes(some), strict=True)
        return found


def folder_mistake(folder: str, root: str = "") -> str:
    """Say what is wrong with a folder for outputs before anything is paid for, if anything is.

    An address needs a driver that is installed, and holds no password. A local folder below `root`
    must not lead out of it by a symbolic link.
    """
    scheme, separator, rest = folder.partition("://")
    if scheme == "s3" and separator:
        return "" if rest.split("/", 1)[0] else f"{folder} names no bucket"
    if separator and scheme != "file":
        return address_mistake(folder)
    if separator and not rest.startswith("/"):
        return f"{folder} is not a folder of this machine"
    return link_mistake(folder_path(root), folder_path(folder)) if root else ""
