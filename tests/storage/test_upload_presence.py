"""What lies there already costs next to nothing to know: counted on the wire."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator

import pytest

from comfyline.errors import Unreachable
from comfyline.job import Media
from comfyline.storage.place import Listed
from comfyline.storage.s3 import Bucket
from comfyline.storage.upload_presence import Presence
from comfyline.storage.uploads import Uploads
from tests.storage.faults import Proxy

KNOWN = 1001
"""One more than a listing has on a page."""


def media_of(number: int) -> Media:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Media(("image_urls", 0), f"/none/{number}", "image", digest, 1, "image/png")


@pytest.fixture(scope="module")
async def uploaded(bucket: Bucket) -> str:
    """A folder with many uploads."""
    folder = f"s3://comfyline/{secrets.token_hex(6)}"
    await asyncio.gather(
        *(
            bucket.put_text("x", f"{folder}/{media_of(number).sha256}.png", "image/png")
            for number in range(KNOWN)
        )
    )
    return folder


async def test_a_thousand_known_files_cost_one_listing(
    wire: Proxy, wired: Bucket, uploaded: str
) -> None:
    uploads = Uploads(wired, uploaded, 60)
    uris = await asyncio.gather(*(uploads.put(media_of(n)) for n in range(KNOWN)))
    await asyncio.gather(*(uploads.put(media_of(n)) for n in range(KNOWN)))

    assert len(set(uris)) == KNOWN
    assert wire.asked() == ["LIST", "LIST"]


async def test_jobs_that_come_one_after_another_cost_a_few_questions_and_one_listing(
    wire: Proxy, wired: Bucket, uploaded: str
) -> None:
    uploads = Uploads(wired, uploaded, 60)
    for number in range(50):
        await uploads.put(media_of(number))

    assert wire.asked() == ["HEAD"] * 4 + ["LIST"] * 2


async def test_what_a_listing_does_not_name_is_not_there_and_costs_no_question(
    wire: Proxy, wired: Bucket, uploaded: str
) -> None:
    presence = Presence(wired, uploaded)
    new = [f"{uploaded}/{number}.png" for number in range(20)]

    assert await asyncio.gather(*map(presence.size, new)) == [None] * 20
    assert len(wire.requests) == 2

    presence.put(new[0], 7)
    assert await presence.size(new[0]) == 7


class Endless:
    """A bucket that lists without end, or that may not be listed; asked by HEAD it knows all."""

    def __init__(self, *, may_list: bool) -> None:
        self.may_list, self.listed, self.heads = may_list, 0, 0

    async def files_in(self, folder: str) -> AsyncIterator[Listed]:
        if not self.may_list:
            raise Unreachable("denies access")
        while True:
            self.listed += 1
            yield Listed(f"{folder}{self.listed}", 1, None)  # type: ignore[arg-type]

    async def size(self, _: str) -> int:
        self.heads += 1
        return 3


@pytest.mark.parametrize("may_list", [True, False])
async def test_a_listing_that_does_not_end_or_may_not_be_made_is_given_up_for_questions(
    *, may_list: bool
) -> None:
    bucket = Endless(may_list=may_list)
    presence = Presence(bucket, "s3://b/uploads")  # type: ignore[arg-type]

    sizes = await asyncio.gather(*(presence.size(f"s3://b/uploads/x{n}") for n in range(6)))

    assert sizes == [3] * 6
    assert (bucket.listed, bucket.heads) == (6000 if may_list else 0, 6)
