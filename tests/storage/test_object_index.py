"""What lies there already costs next to nothing to know: counted on the wire."""

import asyncio
import gc
import secrets
from collections.abc import AsyncIterator

import pytest

from comfyline.errors import Unreachable
from comfyline.storage.object_index import ObjectIndex
from comfyline.storage.place import Listed
from comfyline.storage.s3 import Bucket
from tests.storage.faults import Proxy

KNOWN = 40


@pytest.fixture(scope="module")
async def objects(bucket: Bucket) -> list[str]:
    """A folder with many objects."""
    folder = f"s3://comfyline/{secrets.token_hex(6)}"
    uris = [f"{folder}/{number}.png" for number in range(KNOWN)]
    await asyncio.gather(*(bucket.put_text("x", uri, "image/png") for uri in uris))
    return uris


async def test_many_objects_of_a_folder_cost_one_listing_also_what_is_not_there(
    wire: Proxy, wired: Bucket, objects: list[str]
) -> None:
    index = ObjectIndex(wired)
    new = [f"{uri}.new" for uri in objects[:3]]
    found = await asyncio.gather(*map(index.find, [*objects, *new]))
    again = await asyncio.gather(*map(index.find, [*objects, *new]))

    assert [one.bytes if one else None for one in found] == [1] * KNOWN + [None] * 3
    assert again == found
    assert wire.asked() == ["LIST"]


async def test_objects_that_are_asked_for_one_after_another_cost_a_few_questions_and_one_listing(
    wire: Proxy, wired: Bucket, objects: list[str]
) -> None:
    index = ObjectIndex(wired)
    for uri in objects:
        await index.find(uri)

    assert wire.asked() == ["HEAD"] * 4 + ["LIST"]


class Endless:
    """A bucket that lists without end, or that may not be listed; asked by HEAD it knows all."""

    def __init__(self, *, may_list: bool) -> None:
        self.may_list, self.listed, self.heads = may_list, 0, 0

    async def files_in(self, folder: str) -> AsyncIterator[Listed]:
        if not self.may_list:
            raise Unreachable("denies access")
        while True:
            self.listed += 1
            yield Listed(f"{folder}{self.listed}", 1)

    async def stat(self, uri: str) -> Listed:
        self.heads += 1
        return Listed(uri, 3)


@pytest.mark.parametrize("may_list", [True, False])
async def test_a_listing_that_does_not_end_or_may_not_be_made_is_given_up_for_questions(
    *, may_list: bool
) -> None:
    bucket = Endless(may_list=may_list)
    index = ObjectIndex(bucket)  # type: ignore[arg-type]

    found = await asyncio.gather(*(index.find(f"s3://b/uploads/x{n}") for n in range(6)))

    assert [one.bytes for one in found if one] == [3] * 6
    assert (bucket.listed, bucket.heads) == (6000 if may_list else 0, 6)


class Deep:
    """A bucket with a few objects in a folder, and many below it."""

    async def files_in(self, folder: str) -> AsyncIterator[Listed]:
        for number in range(500):
            yield Listed(f"{folder}below/{number}", 1)
        for number in range(5):
            yield Listed(f"{folder}{number}", 2)


async def test_of_a_listing_only_what_lies_in_the_folder_itself_is_kept() -> None:
    index = ObjectIndex(Deep())  # type: ignore[arg-type]

    found = await asyncio.gather(*(index.find(f"s3://deep/{number}") for number in range(6)))

    assert [one.bytes if one else None for one in found] == [2] * 5 + [None]
    kept = [one for one in gc.get_objects() if isinstance(one, Listed) and "deep" in one.uri]
    assert len(kept) == 5
