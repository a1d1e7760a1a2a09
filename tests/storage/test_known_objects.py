"""What is remembered of objects: ten thousand photos in a bucket are not downloaded every night."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.errors import Unreachable
from comfyline.job import MediaInfo
from comfyline.storage.file_info import FileInfo
from comfyline.storage.origins import Origins
from comfyline.storage.place import Listed
from comfyline.storage.reading import LARGEST
from comfyline.storage.s3 import Bucket
from tests.media.clips import clip, picture
from tests.storage.faults import Proxy

Start = Callable[[], Origins]


@pytest.fixture
def bucket(wired: Bucket) -> Bucket:
    return wired


@pytest.fixture
def start(bucket: Bucket, tmp_path: Path) -> Start:
    """Begins anew, as another process would."""
    return lambda: Origins(bucket, tmp_path / "known-files.sqlite3")


async def put(bucket: Bucket, folder: str, number: int, width: int, tmp_path: Path) -> str:
    path = tmp_path / "picture.jpg"
    path.write_bytes(picture("JPEG", (width, 40)))
    await bucket.put(path, f"{folder}/{number}.jpg", "image/jpeg")
    return f"{folder}/{number}.jpg"


@pytest.fixture
async def photos(bucket: Bucket, folder: str, tmp_path: Path, wire: Proxy) -> list[str]:
    put_there = [await put(bucket, folder, number, 40 + number, tmp_path) for number in range(6)]
    wire.requests.clear()
    return put_there


async def test_what_has_not_changed_is_downloaded_once_for_all_processes(
    start: Start, photos: list[str], wire: Proxy
) -> None:
    first = await start().look(photos)
    assert wire.asked().count("GET") == 6
    wire.requests.clear()

    assert await start().look(photos) == first
    assert wire.asked() == ["LIST"]
    assert (await start().facts(photos[0])).look.width == 40
    assert wire.asked() == ["LIST", "HEAD"]


async def test_what_has_changed_is_read_again_and_nothing_else(
    bucket: Bucket, start: Start, photos: list[str], folder: str, tmp_path: Path, wire: Proxy
) -> None:
    await start().look(photos)
    await put(bucket, folder, 3, 90, tmp_path)
    wire.requests.clear()

    found = await start().look(photos)

    assert wire.asked().count("GET") == 1
    changed = found[photos[3]]
    assert isinstance(changed, FileInfo)
    assert changed.look == MediaInfo("image/jpeg", 90, 40)


async def test_what_changes_while_it_is_read_is_not_remembered(
    bucket: Bucket,
    start: Start,
    photos: list[str],
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stamp, asked = bucket.stamp, Counter[str]()

    async def changed_between(uri: str) -> Listed | None:
        asked[uri] += 1
        if asked[uri] == 2:
            await put(bucket, folder, 0, 77, tmp_path)
        return await stamp(uri)

    with monkeypatch.context() as patched:
        patched.setattr(bucket, "stamp", changed_between)
        await start().facts(photos[0])

    assert (await start().facts(photos[0])).look.width == 77


async def test_a_bucket_that_may_not_be_listed_or_gives_no_etag_is_read_as_ever(
    bucket: Bucket,
    start: Start,
    photos: list[str],
    wire: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forbidden(_: str) -> Listed | None:
        raise Unreachable("denies access")

    def unlisted(_: str) -> None:
        raise Unreachable("denies access")

    monkeypatch.setattr(bucket, "stamp", forbidden)
    monkeypatch.setattr(bucket, "files_in", unlisted)

    first, second = await start().look(photos), await start().look(photos)

    assert first == second
    assert all(isinstance(one, FileInfo) for one in first.values())
    assert wire.asked().count("GET") == 12


async def test_of_an_object_beyond_every_limit_only_the_beginning_is_read(
    bucket: Bucket, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = LARGEST + 1
    path = tmp_path / "film.mp4"
    path.write_bytes(clip())
    await bucket.put(path, f"{folder}/film.mp4", "video/mp4")

    async def huge(uri: str) -> Listed:
        found = await Bucket.stamp(bucket, uri)
        assert found
        return Listed(uri, size, found.modified, found.etag)

    monkeypatch.setattr(bucket, "stamp", huge)

    assert await Origins(bucket).facts(f"{folder}/film.mp4") == FileInfo(
        "", size, MediaInfo("video/mp4")
    )
