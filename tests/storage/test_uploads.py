import asyncio
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from comfyline.errors import InputInvalid, Unfetchable, Unreachable
from comfyline.job import Media
from comfyline.stack.stack import StackAddresses
from comfyline.storage import uploads as uploads_module
from comfyline.storage.presigned_check import try_out
from comfyline.storage.s3 import Bucket
from comfyline.storage.uploads import Uploads
from tests.storage.faults import Proxy


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
    wired: Bucket, folder: str, picture: Path, wire: Proxy
) -> None:
    uploads = Uploads(wired, folder, 60)

    uris = await asyncio.gather(*(uploads.put(media_of(picture)) for _ in range(20)))

    assert len(set(uris)) == 1
    # One HEAD of the object and one of the bucket.
    assert wire.asked() == ["HEAD", "HEAD", "PUT"]


async def test_a_new_process_asks_and_does_not_upload_again(
    bucket: Bucket, wired: Bucket, folder: str, picture: Path, wire: Proxy
) -> None:
    await Uploads(bucket, folder, 60).put(media_of(picture))

    await Uploads(wired, folder, 60).put(media_of(picture))

    assert wire.asked() == ["HEAD"]


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
    wired: Bucket, folder: str, origin: str, wire: Proxy
) -> None:
    assert await Uploads(wired, folder, 60).put(media_of(origin)) == origin
    assert wire.requests == []


async def test_only_what_lies_in_a_bucket_is_presigned_and_for_as_long_as_the_profile_says(
    bucket: Bucket, folder: str, picture: Path
) -> None:
    uploads = Uploads(bucket, folder, 90.0)

    url = await uploads.presign(await uploads.put(media_of(picture)))

    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Expires"] == ["90"]
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).content == b"picture"
    web = "https://example.org/a.png?x=1"
    assert await uploads.presign(web) == web


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


async def test_a_file_uri_is_uploaded_as_the_file_that_it_names(
    bucket: Bucket, folder: str, picture: Path
) -> None:
    uri = await Uploads(bucket, folder, 60).put(media_of(picture.as_uri()))

    assert await bucket.size(uri) == 7


@pytest.mark.parametrize(
    ("expires", "seconds", "life"),
    [(3600, 0, 3600), (3600, 600, 3600), (3600, 7200, 8100), (60, 10**9, 604800)],
)
async def test_a_url_outlives_the_job_by_a_margin_and_never_seven_days(
    bucket: Bucket, folder: str, expires: float, seconds: float, life: int
) -> None:
    url = await Uploads(bucket, folder, expires).presign(f"{folder}/a", seconds)

    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(life)]


async def test_what_has_been_put_is_fetched_once_for_each_bucket(
    bucket: Bucket, folder: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def recorded(url: str, uri: str, *, trust_env: bool) -> None:
        tried.append(uri)
        await try_out(url, uri, trust_env=trust_env)

    monkeypatch.setattr(uploads_module, "try_out", recorded)
    uploads = Uploads(bucket, folder, 60)
    uri = await uploads.put(media_of(picture))

    await asyncio.gather(*(uploads.try_out([uri, "https://x.test/a"]) for _ in range(20)))

    assert tried == [uri]


async def test_keys_that_the_storage_does_not_accept_are_found_before_anything_is_submitted(
    storage: StackAddresses, bucket: Bucket, folder: str, picture: Path
) -> None:
    uri = await Uploads(bucket, folder, 60).put(media_of(picture))

    async with Bucket(storage.storage_endpoint, "somebody", "else") as other:
        uploads = Uploads(other, folder, 60)
        for _ in range(2):
            with pytest.raises(Unfetchable, match=r"is refused for its presigned URL \(HTTP 403"):
                await uploads.try_out([uri])


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Lets the environment hold credentials that end after so long."""

    def held(length: timedelta) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        ends = datetime.now(UTC) + length
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends.isoformat())

    return held


async def test_credentials_that_end_before_a_job_may_are_a_mistake_and_sign_nothing_for_it(
    temporary: Callable[[timedelta], None],
) -> None:
    temporary(timedelta(minutes=20))
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        uploads = Uploads(bucket, "s3://b/uploads", 3600)
        problem = await uploads.lifetime_problem(1800)

        assert problem
        assert "the credentials expire at 20" in problem.message
        assert "a job may take until 20" in problem.message
        assert "renew them" in problem.hint
        with pytest.raises(Unfetchable, match="The credentials expire at"):
            await uploads.presign("s3://b/uploads/a", 1800)


async def test_credentials_that_last_for_the_job_end_its_url_with_them(
    temporary: Callable[[timedelta], None],
) -> None:
    temporary(timedelta(minutes=20))
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        uploads = Uploads(bucket, "s3://b/uploads", 3600)

        assert await uploads.lifetime_problem(900) is None
        url = await uploads.presign("s3://b/uploads/a", 900)

    assert 1190 <= int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 1200


async def test_credentials_that_were_renewed_meanwhile_sign_on(
    temporary: Callable[[timedelta], None],
) -> None:
    temporary(timedelta(minutes=20))
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        uploads = Uploads(bucket, "s3://b/uploads", 3600)
        assert await uploads.lifetime_problem(60) is None

        temporary(timedelta(hours=3))

        assert await uploads.lifetime_problem(1800) is None
        assert await uploads.lifetime_problem(3600) is None


async def test_credentials_that_have_ended_are_said_and_no_defect(
    temporary: Callable[[timedelta], None],
) -> None:
    temporary(timedelta(minutes=-5))
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        problem = await Uploads(bucket, "s3://b/uploads", 60).lifetime_problem(600)
        for asking in (bucket.size("s3://b/a"), bucket.presign("s3://b/a", 60)):
            with pytest.raises(Unreachable, match=r"credentials for .* have expired.* Renew them"):
                await asking

    assert problem
    assert "the credentials expire at" in problem.message


async def test_keys_that_last_are_no_problem_and_more_than_seven_days_are_one(
    bucket: Bucket, folder: str
) -> None:
    uploads = Uploads(bucket, folder, 60)

    assert await uploads.lifetime_problem(600_000) is None
    problem = await uploads.lifetime_problem(700_000)
    assert problem
    assert problem.where == "limits.timeout"


@pytest.mark.parametrize(
    ("endpoint", "runcomfy", "is_problem"),
    [
        ("http://localhost:9000", "https://model-api.runcomfy.net", True),
        ("http://192.168.1.5:9000", "https://model-api.runcomfy.net", True),
        ("http://minio:9000", "https://model-api.runcomfy.net", True),
        ("http://localhost:9000", "http://127.0.0.1:4300", False),
        ("https://s3.example.org", "https://model-api.runcomfy.net", False),
        (None, "https://model-api.runcomfy.net", False),
    ],
)
async def test_a_storage_that_runcomfy_can_never_reach_is_a_mistake(
    bucket: Bucket, endpoint: str | None, runcomfy: str, *, is_problem: bool
) -> None:
    uploads = Uploads(bucket, "s3://b/u", 60, endpoint_url=endpoint, runcomfy_url=runcomfy)

    problem = uploads.reach_problem()

    assert bool(problem) is is_problem
    if problem:
        assert problem.where == "storage.endpoint_url"
        assert "use a storage that the internet reaches" in problem.hint


async def test_urls_are_made_for_the_address_under_which_runcomfy_reaches_the_storage(
    storage: StackAddresses, bucket: Bucket, folder: str, picture: Path
) -> None:
    keys, endpoint = storage.storage_credentials, storage.storage_endpoint
    assert keys is not None
    assert endpoint is not None
    public = endpoint.replace("127.0.0.1", "localhost")
    async with Bucket(public, keys.access_key_id, keys.secret_access_key) as signer:
        uploads = Uploads(bucket, folder, 60, signer=signer)
        uri = await uploads.put(media_of(picture))
        await uploads.try_out([uri])
        url = await uploads.presign(uri)

    assert url.startswith(f"{public}/comfyline/")
