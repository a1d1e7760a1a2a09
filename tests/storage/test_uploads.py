import asyncio
import hashlib
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import Media
from comfyline.storage.bucket import Bucket
from comfyline.storage.uploads import Uploads
from tests.storage.conftest import OpenBucket, record_calls


def media_of(path: Path | str, content: bytes = b"picture") -> Media:
    return Media(
        pointer=("image_urls", 0),
        origin=str(path),
        kind="image",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        media_type="image/png",
    )


def change(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a #1?.png"
    path.write_bytes(b"picture")
    return path


async def test_an_upload_is_named_by_its_content(
    bucket: Bucket, folder: str, picture: Path
) -> None:
    uri = await Uploads(bucket, f"{folder}/", 60).put(media_of(picture))

    assert uri == f"{folder}/{hashlib.sha256(b'picture').hexdigest()}.png"
    assert await bucket.size(uri) == 7


async def test_twenty_jobs_at_once_upload_one_file_once(
    bucket: Bucket, folder: str, picture: Path, calls: list[str]
) -> None:
    uploads = Uploads(bucket, folder, 60)

    uris = await asyncio.gather(*(uploads.put(media_of(picture)) for _ in range(20)))

    assert len(set(uris)) == 1
    assert calls == ["head_object", "put_object"]


async def test_a_new_process_asks_and_does_not_upload_again(
    bucket: Bucket,
    open_bucket: OpenBucket,
    folder: str,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await Uploads(bucket, folder, 60).put(media_of(picture))

    async with open_bucket() as other:
        calls = record_calls(other, monkeypatch)
        await Uploads(other, folder, 60).put(media_of(picture))

    assert calls == ["head_object"]


async def test_what_failed_is_tried_again_by_who_asks_next(
    bucket: Bucket, folder: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(bucket, folder, 60)

    async def away(*_: object, **__: object) -> None:
        raise Unreachable("away")

    with monkeypatch.context() as patched:
        patched.setattr(bucket, "put", away)
        with pytest.raises(Unreachable):
            await uploads.put(media_of(picture))

    assert await bucket.size(await uploads.put(media_of(picture))) == 7


@pytest.mark.parametrize("other", [b"another", b"longer than before", None])
async def test_a_file_that_changed_after_it_was_checked_never_lies_under_the_old_hash(
    bucket: Bucket, folder: str, picture: Path, other: bytes | None
) -> None:
    media = media_of(picture)
    change(picture, other)

    with pytest.raises(InputInvalid, match=r"a #1\?\.png: the file (has changed|was checked)"):
        await Uploads(bucket, folder, 60).put(media)

    assert await bucket.size(f"{folder}/{media.sha256}.png") is None


@pytest.mark.parametrize("origin", ["s3://elsewhere/a.png", "https://example.org/a.png?x=1"])
async def test_what_lies_elsewhere_already_is_not_copied(
    bucket: Bucket, folder: str, origin: str, calls: list[str]
) -> None:
    assert await Uploads(bucket, folder, 60).put(media_of(origin)) == origin
    assert calls == []


async def test_only_what_lies_in_a_bucket_is_presigned_and_for_as_long_as_the_profile_says(
    bucket: Bucket, folder: str, picture: Path
) -> None:
    uploads = Uploads(bucket, folder, 90.0)

    url = await uploads.presign(await uploads.put(media_of(picture)), "a-mark")

    query = parse_qs(urlsplit(url).query)
    assert (query["X-Amz-Expires"], query["x-comfyline-mark"]) == (["90"], ["a-mark"])
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).content == b"picture"
    web = "https://example.org/a.png?x=1"
    assert await uploads.presign(web, "a-mark") == web


async def test_many_different_files_go_up_at_once(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    contents = [os.urandom(50) for _ in range(25)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    uploads = Uploads(bucket, folder, 60)

    uris = await asyncio.gather(
        *(uploads.put(media_of(tmp_path / str(n), content)) for n, content in enumerate(contents))
    )

    assert await bucket.sizes(uris) == [50] * 25
