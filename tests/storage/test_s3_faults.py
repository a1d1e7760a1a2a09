"""An S3 server behind a proxy that is busy, breaks off, stands still or changes what passes."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfyline.errors import Unreachable
from comfyline.storage.s3 import Bucket, Patience
from tests.storage.conftest import s3_client
from tests.storage.faults import Proxy
from tests.storage.servers import Server

SMALL = os.urandom(300_000)
PARTS = os.urandom((8 << 20) + 70_000)
KINDS = ["busy", "reset", "stall"]
ALWAYS = 1000


async def at_once(_: float) -> None:
    """No test waits for what a server would need."""


def through(proxy: Proxy, server: Server, attempts: int) -> Bucket:
    patience = Patience(attempts=attempts, connect=0.2, idle=0.8, slowest=1e6, sleep=at_once)
    return Bucket(server.settings(proxy.url), patience)


@pytest.fixture(scope="module")
async def proxied(proxy: Proxy, rclone_server: Server) -> AsyncIterator[Bucket]:
    async with through(proxy, rclone_server, 4) as bucket:
        yield bucket


@pytest.fixture(scope="module")
async def impatient(proxy: Proxy, rclone_server: Server) -> AsyncIterator[Bucket]:
    async with through(proxy, rclone_server, 2) as bucket:
        yield bucket


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small").write_bytes(SMALL)
    return tmp_path / "small"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "parts").write_bytes(PARTS)
    return tmp_path / "parts"


async def content(bucket: Bucket, uri: str) -> bytes:
    return b"".join([chunk async for chunk in bucket.read(uri)])


def open_uploads(server: Server, folder: str) -> list[str]:
    bucket, prefix = folder.removeprefix("s3://").split("/", 1)
    listed = s3_client(server).list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [one["Key"] for one in listed.get("Uploads", [])]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_operation_gets_over_a_fault(
    wire: Proxy,
    proxied: Bucket,
    bucket: Bucket,
    rclone_server: Server,
    folder: str,
    small: Path,
    parts: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    for name in ("got", "asked"):
        await bucket.put(small, f"{folder}/{name}", "image/png")
    faults = [
        wire.order(kind, r"^PUT \S*/small "),
        wire.order(kind, r"^PUT \S*/parts\?\S*partNumber=2"),
        wire.order(kind, r"^GET \S*/got "),
        wire.order(kind, r"^HEAD \S*/asked"),
        wire.order(kind, r"^GET \S*list-type=2"),
    ]

    async def listed() -> set[int]:
        return {one.bytes async for one in proxied.files_in(f"{folder}/got")}

    *_, size, sizes = await asyncio.gather(
        proxied.put(small, f"{folder}/small", "image/png"),
        proxied.put(parts, f"{folder}/parts", "video/mp4"),
        proxied.get(f"{folder}/got", tmp_path / "got"),
        proxied.size(f"{folder}/asked"),
        listed(),
    )

    assert [fault.seen for fault in faults] == [1] * len(faults)
    assert await content(bucket, f"{folder}/small") == SMALL
    assert await content(bucket, f"{folder}/parts") == PARTS
    assert (tmp_path / "got").read_bytes() == SMALL
    assert (size, sizes) == (len(SMALL), {len(SMALL)})
    assert open_uploads(rclone_server, folder) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_what_does_not_pass_is_told_and_leaves_nothing(
    wire: Proxy,
    impatient: Bucket,
    bucket: Bucket,
    rclone_server: Server,
    folder: str,
    small: Path,
    parts: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    await bucket.put_text("x", f"{folder}/got", "text/plain")
    for method in ("PUT", "GET", "HEAD"):
        wire.order(kind, f"^{method} ", ALWAYS)

    told = await asyncio.gather(
        impatient.put(small, f"{folder}/small", "image/png"),
        impatient.put(parts, f"{folder}/other", "video/mp4"),
        impatient.get(f"{folder}/got", tmp_path / "target"),
        impatient.size(f"{folder}/got"),
        return_exceptions=True,
    )

    assert [type(one) for one in told] == [Unreachable] * 4
    for one in told:
        assert wire.url in str(one)
        assert "Signature" not in str(one)
        assert not isinstance(one, Unreachable) or one.hint
    assert await bucket.sizes([f"{folder}/small", f"{folder}/other"]) == [None, None]
    assert open_uploads(rclone_server, folder) == []
    assert not (tmp_path / "target").exists()


async def test_a_download_goes_on_where_it_broke_off(
    wire: Proxy, proxied: Bucket, bucket: Bucket, folder: str, parts: Path, tmp_path: Path
) -> None:
    await bucket.put(parts, f"{folder}/a", "video/mp4")
    wire.order("reset", r"^GET ")

    await proxied.get(f"{folder}/a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == PARTS
    first, second = wire.requests
    assert "Range:" not in first
    # Further than nothing, and not past the half that was let through.
    start = int(second.split("Range: bytes=")[1].split("-")[0])
    assert 0 < start <= len(PARTS) // 2


async def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed_with_the_old_one(
    wire: Proxy,
    rclone_server: Server,
    bucket: Bucket,
    folder: str,
    parts: Path,
    tmp_path: Path,
) -> None:
    await bucket.put(parts, f"{folder}/a", "video/mp4")
    wire.order("reset", r"^GET ")

    async def replaced(_: float) -> None:
        await bucket.put_text("another", f"{folder}/a", "video/mp4")

    patience = Patience(sleep=replaced)
    async with Bucket(rclone_server.settings(wire.url), patience) as reading:
        with pytest.raises(Unreachable, match="was replaced while it was read"):
            await reading.get(f"{folder}/a", tmp_path / "b")

    assert not (tmp_path / "b").exists()


async def test_bytes_that_are_damaged_on_their_way_are_nowhere_shown(
    wire: Proxy,
    impatient: Bucket,
    bucket: Bucket,
    rclone_server: Server,
    folder: str,
    small: Path,
    parts: Path,
) -> None:
    wire.order("damage", r"^PUT ", ALWAYS)

    for source in (small, parts):
        with pytest.raises(Unreachable, match="Object storage"):
            await impatient.put(source, f"{folder}/{source.name}", "image/png")

    assert await bucket.sizes([f"{folder}/small", f"{folder}/parts"]) == [None, None]
    assert open_uploads(rclone_server, folder) == []
