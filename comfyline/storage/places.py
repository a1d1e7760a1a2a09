"""Which place an address belongs to."""

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
