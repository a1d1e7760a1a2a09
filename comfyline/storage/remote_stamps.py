"""What a bucket says of many objects without their being read, in as few requests as it takes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from comfyline.errors import Unreachable
from comfyline.storage.place import Listed, all_of
from comfyline.storage.s3 import Bucket

FEW = 4
"""Up to so many objects of a folder are asked for one by one; for more it is listed."""
_PAGE = 1000
"""Objects that one request lists (S3, `ListObjectsV2`)."""
_HEADS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class RemoteStamp:
    """What changes with an object's content: size, ETag, and when it was written (Unix seconds)."""

    size: int
    etag: str
    modified: int

    def __str__(self) -> str:
        return f"{self.size} {self.etag} {self.modified}"


def stamp_of(found: Listed) -> RemoteStamp | None:
    """Return an object's stamp; None where the storage gives no ETag, which alone is certain.

    In whole seconds: a listing tells fractions of them, a HEAD does not.
    """
    if not found.etag:
        return None
    return RemoteStamp(found.bytes, found.etag, int(found.modified.timestamp()))


async def look_up(bucket: Bucket, uris: Sequence[str]) -> dict[str, Listed]:
    """Return what is known of those objects that are there.

    What cannot be told is left out as well: whoever reads the object is told why.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for uri in dict.fromkeys(uris):
        folders[uri.rpartition("/")[0]].append(uri)
    found: dict[str, Listed] = {}
    for folder, some in folders.items():
        left = some
        if len(some) > FEW:
            listed, is_whole = await list_folder(bucket, folder, some, some.__len__)
            found |= listed
            left = [] if is_whole else [uri for uri in some if uri not in listed]
        heads = await all_of((_stamp(bucket, uri) for uri in left), _HEADS_AT_ONCE)
        found |= {one.uri: one for one in heads if one}
    return found


async def list_folder(
    bucket: Bucket, folder: str, wanted: Sequence[str] | None, asked: Callable[[], int]
) -> tuple[dict[str, Listed], bool]:
    """List a folder for what is wanted of it (None: all), and tell whether that was all of it.

    Gives up where it would take more requests than asking for each of the `asked` one by one, and
    where it may not: some keys may read but not list.
    """
    names = None if wanted is None else set(wanted)
    found: dict[str, Listed] = {}
    count = 0
    try:
        async with aclosing(bucket.files_in(f"{folder}/")) as listed:
            async for one in listed:
                count += 1
                if names is None or one.uri in names:
                    found[one.uri] = one
                if count >= _PAGE * asked():
                    return found, False
    except Unreachable:
        return found, False
    return found, True


async def _stamp(bucket: Bucket, uri: str) -> Listed | None:
    try:
        return await bucket.stamp(uri)
    except Unreachable:
        return None
