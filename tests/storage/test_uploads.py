import asyncio
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from comfyline.config.settings import StorageSettings
from comfyline.errors import InputInvalid, Unfetchable, Unreachable
from comfyline.job import Media
from comfyline.media.convert import Conversion, convert
from comfyline.storage import uploads as uploads_module
from comfyline.storage.inputs import Inputs
from comfyline.storage.s3 import Bucket
from comfyline.storage.uploads import Uploads, try_out
from tests.conftest import jpeg
from tests.media.clips import heic
from tests.media.clips import picture as picture_of
from tests.storage.faults import Proxy
from tests.storage.servers import Server

Begin = Callable[..., Uploads]


def media_of(path: Path | str, content: bytes = b"picture", media_type: str = "image/png") -> Media:
    return Media(
        pointer=("image_urls", 0),
        origin=str(path),
        kind="image",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        media_type=media_type,
    )


def converted(origin: Path | str, content: bytes, conversion: str, kind: str = "heic") -> Media:
    return replace(media_of(origin, content, f"image/{kind}"), conversion=conversion)


def change(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.fixture
def begin(folder: str, tmp_path: Path) -> Begin:
    """Begins anew, as another process would."""

    def uploads(bucket: Bucket, expires: float = 60) -> Uploads:
        settings = StorageSettings(folder, url_expires=expires)
        return Uploads(bucket, settings, Inputs(bucket), tmp_path / "copies")

    return uploads


@pytest.fixture
def uploads(begin: Begin, bucket: Bucket) -> Uploads:
    return begin(bucket)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a #1?.png"
    path.write_bytes(b"picture")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "IMG 1.heic"
    path.write_bytes(heic())
    return path


async def stored(bucket: Bucket, uri: str) -> bytes:
    return b"".join([chunk async for chunk in bucket.read(uri)])


async def test_an_upload_is_named_by_its_content_and_made_once_for_twenty_jobs_and_all_processes(
    begin: Begin, wired: Bucket, folder: str, picture: Path, wire: Proxy
) -> None:
    uploads, media = begin(wired), media_of(picture)
    uris = await asyncio.gather(*(uploads.put(media) for _ in range(20)))

    assert set(uris) == {f"{folder}/{media.sha256}.png"}
    # One HEAD of the object and one of the bucket.
    assert wire.asked() == ["HEAD", "HEAD", "PUT"]
    wire.requests.clear()
    assert await begin(wired).put(media_of(picture.as_uri())) == uris[0]
    assert wire.asked() == ["HEAD"]
    assert await stored(wired, uris[0]) == b"picture"


async def test_what_failed_is_tried_again_by_who_asks_next(
    uploads: Uploads, bucket: Bucket, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unreachable("away")

    with monkeypatch.context() as patched:
        patched.setattr(bucket, "put", away)
        with pytest.raises(Unreachable):
            await uploads.put(media_of(picture))

    assert await bucket.size(await uploads.put(media_of(picture))) == 7


@pytest.mark.parametrize("other", [b"another", b"longer than before", None])
async def test_a_file_that_changed_after_it_was_checked_never_lies_under_the_old_hash(
    uploads: Uploads, bucket: Bucket, folder: str, picture: Path, other: bytes | None
) -> None:
    media = media_of(picture)
    change(picture, other)

    with pytest.raises(InputInvalid, match=r"a #1\?\.png: the file (has changed|was checked)"):
        await uploads.put(media)

    assert await bucket.size(f"{folder}/{media.sha256}.png") is None


@pytest.mark.parametrize("origin", ["s3://elsewhere/a.png", "https://example.org/a.png?x=1"])
async def test_what_lies_elsewhere_already_is_not_copied(
    begin: Begin, wired: Bucket, origin: str, wire: Proxy
) -> None:
    assert await begin(wired).put(media_of(origin)) == origin
    assert wire.requests == []


@pytest.mark.parametrize(
    ("expires", "seconds", "life"),
    [(3600, 0, 3600), (3600, 600, 3600), (3600, 7200, 8100), (60, 10**9, 604800)],
)
async def test_a_url_of_what_lies_in_a_bucket_outlives_the_job_by_a_margin_and_never_seven_days(
    begin: Begin, bucket: Bucket, folder: str, expires: float, seconds: float, life: int
) -> None:
    uploads, web = begin(bucket, expires), "https://example.org/a.png?x=1"
    url = await uploads.presign(f"{folder}/a", seconds)

    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(life)]
    assert await uploads.presign(web) == web


async def test_what_has_been_put_is_fetched_once_for_each_bucket(
    uploads: Uploads, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def recorded(url: str, uri: str) -> None:
        tried.append(uri)
        await try_out(url, uri)

    monkeypatch.setattr(uploads_module, "try_out", recorded)
    uri = await uploads.put(media_of(picture))

    await asyncio.gather(*(uploads.try_out([uri, "https://x.test/a"]) for _ in range(20)))

    assert tried == [uri]


async def test_keys_that_the_storage_does_not_accept_are_found_before_anything_is_submitted(
    begin: Begin, uploads: Uploads, rclone_server: Server, picture: Path
) -> None:
    uri = await uploads.put(media_of(picture))

    async with Bucket(replace(rclone_server, key="somebody").settings()) as other:
        refused = begin(other)
        for _ in range(2):
            with pytest.raises(Unfetchable, match=r"is refused for its presigned URL \(HTTP 403"):
                await refused.try_out([uri])


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the environment hold credentials that end after so many minutes."""

    def held(minutes: int) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        ends = datetime.now(UTC) + timedelta(minutes=minutes)
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends.isoformat())

    return held


async def test_a_url_lives_no_longer_than_its_credentials_and_a_job_that_may_needs_others(
    begin: Begin, temporary: Callable[[int], None]
) -> None:
    temporary(20)
    async with Bucket(StorageSettings("", "http://127.0.0.1:9")) as bucket:
        uploads = begin(bucket, 3600)
        assert await uploads.lifetime_problem(900) is None
        url = await uploads.presign("s3://b/uploads/a", 900)
        assert 1190 <= int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 1200

        problem = await uploads.lifetime_problem(1800)
        assert problem
        assert "the credentials expire at 20" in problem.message
        assert "a job may take until 20" in problem.message
        assert "renew them" in problem.hint
        with pytest.raises(Unfetchable, match="The credentials expire at"):
            await uploads.presign("s3://b/uploads/a", 1800)


async def test_credentials_that_have_ended_are_said_and_those_that_were_renewed_sign_on(
    begin: Begin, temporary: Callable[[int], None]
) -> None:
    temporary(-5)
    async with Bucket(StorageSettings("", "http://127.0.0.1:9")) as bucket:
        problem = await begin(bucket).lifetime_problem(600)
        assert problem
        assert "the credentials expire at" in problem.message
        for asking in (bucket.size("s3://b/a"), bucket.presign("s3://b/a", 60)):
            with pytest.raises(Unreachable, match=r"credentials for .* have expired.* Renew them"):
                await asking
    async with Bucket(StorageSettings("", "http://127.0.0.1:9")) as bucket:
        temporary(20)
        uploads = begin(bucket)
        assert await uploads.lifetime_problem(60) is None
        temporary(180)
        assert await uploads.lifetime_problem(3600) is None


async def test_who_has_renewed_the_credentials_is_not_refused_for_the_old_ones(
    uploads: Uploads, bucket: Bucket, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = await uploads.put(media_of(picture))

    async def over(_: float) -> datetime:
        return datetime.now(UTC) - timedelta(minutes=1)

    with monkeypatch.context() as before:
        before.setattr(bucket, "credentials_expiry", over)
        with pytest.raises(Unfetchable, match="The credentials expire at"):
            await uploads.try_out([uri])
    await uploads.try_out([uri])


async def test_keys_that_last_are_no_problem_and_more_than_seven_days_are_one(
    uploads: Uploads,
) -> None:
    assert await uploads.lifetime_problem(600_000) is None
    problem = await uploads.lifetime_problem(700_000)
    assert problem
    assert problem.where == "limits.timeout"


@pytest.mark.parametrize(
    ("endpoint", "runcomfy", "is_problem"),
    [
        ("http://192.168.1.5:9000", "https://model-api.runcomfy.net", True),
        ("http://minio:9000", "https://model-api.runcomfy.net", True),
        ("http://localhost:9000", "http://127.0.0.1:4300", False),
        ("https://s3.example.org", "https://model-api.runcomfy.net", False),
        (None, "https://model-api.runcomfy.net", False),
    ],
)
def test_a_storage_that_runcomfy_can_never_reach_is_a_mistake(
    endpoint: str | None, runcomfy: str, *, is_problem: bool, tmp_path: Path
) -> None:
    settings = StorageSettings("s3://b/u", endpoint)
    bucket = Bucket(settings)

    problem = Uploads(
        bucket, settings, Inputs(bucket), tmp_path, runcomfy_url=runcomfy
    ).reach_problem()

    assert bool(problem) is is_problem
    assert problem is None or "use a storage that the internet reaches" in problem.hint


async def test_urls_are_made_for_the_address_under_which_runcomfy_reaches_the_storage(
    rclone_server: Server, bucket: Bucket, folder: str, picture: Path, tmp_path: Path
) -> None:
    public = str(rclone_server.endpoint).replace("127.0.0.1", "localhost")
    async with Bucket(rclone_server.settings(public)) as signer:
        settings = StorageSettings(folder, url_expires=60)
        uploads = Uploads(bucket, settings, Inputs(bucket), tmp_path, signer=signer)
        uri = await uploads.put(media_of(picture))
        await uploads.try_out([uri])
        url = await uploads.presign(uri)

    assert url.startswith(f"{public}/comfyline/")


async def test_a_converted_copy_lies_under_its_own_content_and_nothing_else_is_left(
    uploads: Uploads, bucket: Bucket, folder: str, photo: Path, files: str, tmp_path: Path
) -> None:
    await bucket.put(photo, f"{folder}/photo.heic", "image/heic")
    turned = jpeg((600, 300), exif_orientation=6)
    asked = {
        "JPEG": converted(photo, heic(), "jpeg"),
        "WEBP": converted(f"{folder}/photo.heic", heic(), "webp"),
        "PNG": converted(f"{files}/turned.jpg?secret=1", turned, "png", "jpeg"),
    }

    uris = {form: await uploads.put(media) for form, media in asked.items()}

    for form, uri in uris.items():
        content = await stored(bucket, uri)
        ending = {"JPEG": "jpg"}.get(form, form.lower())
        assert uri == f"{folder}/{hashlib.sha256(content).hexdigest()}.{ending}"
        assert Image.open(io.BytesIO(content)).format == form
    assert await asyncio.to_thread(photo.read_bytes) == heic()
    assert list((tmp_path / "copies").iterdir()) == []


async def test_many_jobs_with_one_photo_convert_it_once(
    uploads: Uploads, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(source: BinaryIO, media_type: str, conversion: Conversion, file: BinaryIO) -> None:
        made.append(conversion.form)
        convert(source, media_type, conversion, file)

    monkeypatch.setattr(uploads_module, "convert", counted)
    uris = await asyncio.gather(
        *(uploads.put(converted(photo, heic(), form)) for form in ["jpeg", "png<=16px"] * 8)
    )

    assert sorted(made) == ["jpeg", "png"]
    assert len(set(uris)) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"other", "the file is no longer the one that was checked; run again"),
        (None, "it cannot be converted: No such file or directory; run again"),
    ],
)
async def test_a_photo_that_has_changed_since_it_was_checked_is_not_submitted(
    uploads: Uploads, photo: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    media = converted(photo, heic(), "jpeg")
    change(photo, content)

    with pytest.raises(InputInvalid) as caught:
        await uploads.put(media)

    assert str(caught.value) == f"{photo}: {said}"
    assert list((tmp_path / "copies").iterdir()) == []


async def test_a_copy_that_turns_out_too_large_names_the_option_and_what_is_broken_is_told(
    uploads: Uploads, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scan.tif").write_bytes(content := picture_of("TIFF")[:400])
    with pytest.raises(InputInvalid, match=r"scan\.tif: cannot be converted: "):
        await uploads.put(converted(tmp_path / "scan.tif", content, "jpeg", "tiff"))

    monkeypatch.setattr(uploads_module, "MOST_BYTES", {"image": 1000})
    with pytest.raises(InputInvalid, match=r"its JPEG copy has .*; write `downscale: true`"):
        await uploads.put(converted(photo, heic(), "jpeg"))
