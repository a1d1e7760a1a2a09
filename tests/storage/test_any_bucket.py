"""What every S3 storage has to do for comfyline; `make storage-test BUCKET=s3://…` asks any."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from comfyline.errors import InputInvalid
from comfyline.storage.s3 import Bucket
from tests.storage.conftest import OpenServer, head, s3_client
from tests.storage.servers import NAMED, Server

pytestmark = pytest.mark.parametrize(
    "server", ["named"] if NAMED else ["rclone", "moto"], indirect=True, scope="session"
)
PARTS = os.urandom((8 << 20) + 70_000)


@pytest.fixture
async def bucket(server: Server, open_server: OpenServer) -> Bucket:
    return await open_server(server)


@pytest.fixture(scope="module")
async def home(server: Server, open_server: OpenServer) -> AsyncIterator[str]:
    """A folder of this test run's own; what was written there, and no more, is removed."""
    bucket = await open_server(server)
    folder = f"{server.folder}/comfyline-test-{secrets.token_hex(6)}"
    yield folder
    client = s3_client(server)
    async for one in bucket.files_in(f"{folder}/"):
        name, key = one.uri.removeprefix("s3://").split("/", 1)
        client.delete_object(Bucket=name, Key=key)


@pytest.fixture
def folder(home: str) -> str:
    return f"{home}/{secrets.token_hex(4)}"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(PARTS)
    return path


@pytest.mark.parametrize("name", ["a.png", "a b.png", "a#b?c.png", "100%.png", "ä/ö+ü&='.png"])
async def test_a_file_comes_back_from_under_any_name(
    bucket: Bucket, folder: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a").write_bytes(b"whole")

    await bucket.put(tmp_path / "a", f"{folder}/{name}", "image/png")
    await bucket.get(f"{folder}/{name}", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"whole"
    assert [(one.uri, one.bytes) async for one in bucket.files_in(f"{folder}/")] == [
        (f"{folder}/{name}", 5)
    ]


async def test_an_empty_file_comes_back(bucket: Bucket, folder: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    await bucket.put(tmp_path / "a", f"{folder}/a", "image/png")
    await bucket.get(f"{folder}/a", tmp_path / "b")

    assert (await bucket.size(f"{folder}/a"), (tmp_path / "b").read_bytes()) == (0, b"")


async def test_a_large_file_goes_up_in_parts_and_comes_back(
    bucket: Bucket, folder: str, large: Path, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(PARTS).hexdigest()

    await bucket.put(large, f"{folder}/a", "video/mp4", sha256=sha256)
    await bucket.get(f"{folder}/a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == PARTS
    assert await bucket.sha256(f"{folder}/a") == sha256


@pytest.mark.parametrize("size", [3, len(PARTS)])
async def test_type_and_metadata_are_kept(
    bucket: Bucket, server: Server, folder: str, tmp_path: Path, size: int
) -> None:
    (tmp_path / "a").write_bytes(PARTS[:size])
    sha256 = hashlib.sha256(PARTS[:size]).hexdigest()

    await bucket.put(
        tmp_path / "a", f"{folder}/a", "image/webp", sha256=sha256, metadata={"job": "7"}
    )

    found = head(server, f"{folder}/a")
    assert found["ContentType"] == "image/webp"
    kept = {name.lower(): value for name, value in found["Metadata"].items()}
    assert kept == {"sha256": sha256, "job": "7"}


@pytest.mark.parametrize("size", [3, len(PARTS)])
async def test_a_file_that_is_another_one_than_promised_is_not_shown(
    bucket: Bucket, folder: str, tmp_path: Path, size: int
) -> None:
    (tmp_path / "a").write_bytes(PARTS[:size])

    with pytest.raises(InputInvalid, match="has changed since it was checked"):
        await bucket.put(tmp_path / "a", f"{folder}/a", "image/png", sha256="0" * 64)

    assert await bucket.size(f"{folder}/a") is None


async def test_a_put_replaces_what_was_there(bucket: Bucket, folder: str) -> None:
    await bucket.put_text("first", f"{folder}/a", "text/plain")
    first = await bucket.stamp(f"{folder}/a")
    await bucket.put_text("another", f"{folder}/a", "text/plain")
    second = await bucket.stamp(f"{folder}/a")

    assert first is not None
    assert second is not None
    assert (first.bytes, second.bytes) == (5, 7)
    assert first.etag != second.etag


async def test_what_a_listing_tells_of_a_file_is_what_the_file_tells(
    bucket: Bucket, folder: str
) -> None:
    await bucket.put_text("x", f"{folder}/a", "text/plain")

    listed = [one async for one in bucket.files_in(f"{folder}/")]

    stamp = await bucket.stamp(f"{folder}/a")
    assert stamp is not None
    assert stamp.etag
    assert [(one.uri, one.bytes, one.etag) for one in listed] == [
        (stamp.uri, stamp.bytes, stamp.etag)
    ]
    assert abs((stamp.modified - listed[0].modified).total_seconds()) < 1


async def test_what_is_not_there_has_no_size_and_cannot_be_got(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    await bucket.put_text("x", f"{folder}/sub/a", "text/plain")

    names = ("a", "sub", "sub/a")
    assert await bucket.sizes([f"{folder}/{name}" for name in names]) == [None, None, 1]
    for name in ("a", "sub"):
        with pytest.raises(FileNotFoundError):
            await bucket.get(f"{folder}/{name}", tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_a_presigned_url_is_read_without_login(bucket: Bucket, folder: str) -> None:
    await bucket.put_text("x", f"{folder}/a b#c.txt", "text/plain")

    url = await bucket.presign(f"{folder}/a b#c.txt", 90.9)

    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Expires"] == ["90"]
    async with httpx.AsyncClient() as http:
        assert (await http.get(url)).text == "x"


@pytest.mark.parametrize("size", [3, len(PARTS)])
async def test_a_new_file_leaves_alone_what_lies_there(
    bucket: Bucket, folder: str, tmp_path: Path, size: int
) -> None:
    (tmp_path / "a").write_bytes(PARTS[:size])
    await bucket.put(tmp_path / "a", f"{folder}/a", "image/png", new=True)
    await bucket.put_text("theirs", f"{folder}/b", "text/plain", new=True)

    with pytest.raises(FileExistsError):
        await bucket.put(tmp_path / "a", f"{folder}/b", "image/png", new=True)
    with pytest.raises(FileExistsError):
        await bucket.put_text("ours", f"{folder}/a", "text/plain", new=True)

    assert await bucket.sizes([f"{folder}/a", f"{folder}/b"]) == [size, 6]


async def test_of_many_who_put_the_same_new_name_one_does(
    bucket: Bucket, folder: str, server: Server
) -> None:
    puts = [bucket.put_text(f"{n}", f"{folder}/a", "text/plain", new=True) for n in range(8)]

    ended = await asyncio.gather(*puts, return_exceptions=True)

    assert {type(one) for one in ended} <= {type(None), FileExistsError}
    # rclone ignores the condition: there, only who comes later finds the name taken.
    assert ended.count(None) == 1 or (server.name == "rclone" and None in ended)
