"""Two S3 servers behind a proxy that is busy, breaks off, stands still or changes what passes."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from comfyline.errors import Unreachable
from comfyline.storage.bucket import Bucket
from comfyline.storage.bucket_options import Patience
from tests.storage.conftest import OpenServer
from tests.storage.faults import Proxy, proxy_of
from tests.storage.servers import Server


async def at_once(_: float) -> None:
    """No test waits for what a server would need."""


SMALL = os.urandom(300_000)
PARTS = os.urandom((8 << 20) + 70_000)
PATIENCE = Patience(attempts=4, connect=0.2, idle=0.8, sleep=at_once)
KINDS = ["busy", "reset", "stall"]
ALWAYS = 1000


@pytest.fixture(scope="module")
async def proxied(server: Server) -> AsyncIterator[tuple[Proxy, Bucket]]:
    assert server.endpoint is not None
    async with (
        proxy_of(server.endpoint) as proxy,
        Bucket(proxy.url, server.key, server.secret, patience=PATIENCE) as bucket,
    ):
        yield proxy, bucket


@pytest.fixture
def proxy(proxied: tuple[Proxy, Bucket]) -> Iterator[Proxy]:
    proxied[0].requests.clear()
    yield proxied[0]
    proxied[0].faults.clear()


@pytest.fixture
def bucket(proxied: tuple[Proxy, Bucket]) -> Iterator[Bucket]:
    """The server behind the proxy; `patience` of its session may be changed for a test."""
    yield proxied[1]
    proxied[1]._session.patience = PATIENCE
    proxied[1]._uploading._proof.other_etags.clear()


@pytest.fixture
async def direct(server: Server, open_server: OpenServer) -> Bucket:
    """The same server without the proxy: what it says is what is really there."""
    return await open_server(server)


@pytest.fixture
def folder(server: Server) -> str:
    return f"{server.folder}/faults-{secrets.token_hex(4)}"


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


async def open_uploads(bucket: Bucket, folder: str) -> list[str]:
    prefix = folder.split("/", 3)[3]
    listed = await bucket._session.call("list_multipart_uploads", folder, Prefix=prefix)
    return [one["Key"] for one in listed.get("Uploads", [])]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_operation_gets_over_a_fault(
    proxy: Proxy,
    bucket: Bucket,
    direct: Bucket,
    folder: str,
    small: Path,
    parts: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    for name in ("got", "asked"):
        await direct.put(small, f"{folder}/{name}", "image/png")
    faults = [
        proxy.order(kind, r"^PUT \S*/small\?"),
        proxy.order(kind, r"^PUT \S*/parts\?\S*partNumber=2"),
        proxy.order(kind, r"^GET \S*/got\?"),
        proxy.order(kind, r"^HEAD \S*/asked"),
        proxy.order(kind, r"^GET \S*list-type=2"),
    ]

    async def listed() -> set[int]:
        return {one.bytes async for one in bucket.files_in(f"{folder}/got")}

    *_, size, sizes = await asyncio.gather(
        bucket.put(small, f"{folder}/small", "image/png"),
        bucket.put(parts, f"{folder}/parts", "video/mp4"),
        bucket.get(f"{folder}/got", tmp_path / "got"),
        bucket.size(f"{folder}/asked"),
        listed(),
    )

    assert [fault.seen for fault in faults] == [1] * len(faults)
    assert await content(direct, f"{folder}/small") == SMALL
    assert await content(direct, f"{folder}/parts") == PARTS
    assert (tmp_path / "got").read_bytes() == SMALL
    assert (size, sizes) == (len(SMALL), {len(SMALL)})
    assert await open_uploads(direct, folder) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_what_does_not_pass_is_told_and_leaves_nothing(
    proxy: Proxy,
    bucket: Bucket,
    direct: Bucket,
    folder: str,
    small: Path,
    parts: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    await direct.put_text("x", f"{folder}/got", "text/plain")
    proxy.order(kind, r"^PUT ", ALWAYS)
    proxy.order(kind, r"^GET ", ALWAYS)
    proxy.order(kind, r"^HEAD ", ALWAYS)

    bucket._session.patience = replace(PATIENCE, attempts=2)
    told = await asyncio.gather(
        bucket.put(small, f"{folder}/small", "image/png"),
        bucket.put(parts, f"{folder}/parts", "video/mp4"),
        bucket.get(f"{folder}/got", tmp_path / "target"),
        bucket.size(f"{folder}/got"),
        return_exceptions=True,
    )

    assert [type(one) for one in told] == [Unreachable] * 4
    for one in told:
        assert proxy.url in str(one)
        assert "Signature" not in str(one)
        assert not isinstance(one, Unreachable) or one.hint
    assert await direct.sizes([f"{folder}/small", f"{folder}/parts"]) == [None, None]
    assert await open_uploads(direct, folder) == []
    assert not (tmp_path / "target").exists()


async def test_a_download_goes_on_where_it_broke_off(
    proxy: Proxy, bucket: Bucket, direct: Bucket, folder: str, parts: Path, tmp_path: Path
) -> None:
    await direct.put(parts, f"{folder}/a", "video/mp4")
    proxy.order("reset", r"^GET ")

    await bucket.get(f"{folder}/a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == PARTS
    first, second = proxy.requests
    assert "Range:" not in first
    # Further than nothing, and not past the half that was let through.
    start = int(second.split("Range: bytes=")[1].split("-")[0])
    assert 0 < start <= len(PARTS) // 2


async def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed_with_the_old_one(
    proxy: Proxy, bucket: Bucket, direct: Bucket, folder: str, parts: Path, tmp_path: Path
) -> None:
    await direct.put(parts, f"{folder}/a", "video/mp4")
    proxy.order("reset", r"^GET ")

    async def replaced(_: float) -> None:
        await direct.put_text("another", f"{folder}/a", "video/mp4")

    bucket._session.patience = replace(PATIENCE, sleep=replaced)
    with pytest.raises(Unreachable, match="was replaced while it was read"):
        await bucket.get(f"{folder}/a", tmp_path / "b")

    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("new", [True, False])
async def test_an_upload_whose_answer_is_lost_has_happened_once(
    proxy: Proxy,
    bucket: Bucket,
    direct: Bucket,
    folder: str,
    small: Path,
    parts: Path,
    new: bool,  # noqa: FBT001
) -> None:
    proxy.order("lost", r"^PUT \S*/small\?")
    proxy.order("lost", r"^POST \S*/parts\?uploadId=")

    await bucket.put(small, f"{folder}/small", "image/png", new=new)
    await bucket.put(parts, f"{folder}/parts", "video/mp4", new=new)

    assert await content(direct, f"{folder}/small") == SMALL
    assert await content(direct, f"{folder}/parts") == PARTS
    assert await open_uploads(direct, folder) == []


async def test_bytes_that_are_damaged_on_their_way_are_nowhere_shown(
    proxy: Proxy, bucket: Bucket, direct: Bucket, folder: str, small: Path, parts: Path
) -> None:
    proxy.order("damage", r"^PUT ", ALWAYS)
    bucket._session.patience = replace(PATIENCE, attempts=2)

    for source in (small, parts):
        with pytest.raises(Unreachable, match="Object storage"):
            await bucket.put(source, f"{folder}/{source.name}", "image/png")

    assert await direct.sizes([f"{folder}/small", f"{folder}/parts"]) == [None, None]
    assert await open_uploads(direct, folder) == []


async def test_a_server_whose_etags_are_no_md5_is_believed_after_a_look(
    proxy: Proxy, bucket: Bucket, direct: Bucket, folder: str, small: Path
) -> None:
    proxy.order("etag", r"^PUT ", ALWAYS)

    for number in range(3):
        await bucket.put(small, f"{folder}/{number}", "image/png")

    assert await content(direct, f"{folder}/0") == SMALL
    assert [one.split()[0] for one in proxy.requests] == ["PUT", "GET", "PUT", "PUT"]


async def test_presigning_asks_nobody(
    proxy: Proxy, bucket: Bucket, direct: Bucket, folder: str, small: Path
) -> None:
    await direct.put(small, f"{folder}/a", "image/png")
    fault = proxy.order("busy", r".", ALWAYS)

    url = await bucket.presign(f"{folder}/a", 60)

    assert proxy.requests == []
    fault.times = 0
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).content == SMALL
