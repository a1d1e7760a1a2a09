import asyncio
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from comfyline.errors import Unreachable
from comfyline.stack.stack import StackAddresses
from comfyline.storage.bucket import Bucket
from comfyline.storage.bucket_options import Patience

LARGE = os.urandom((16 << 20) + 1)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


async def test_a_large_file_goes_up_in_parts_and_comes_back(
    bucket: Bucket, folder: str, large: Path, tmp_path: Path, calls: list[str]
) -> None:
    await bucket.put(large, f"{folder}/a", "video/mp4")
    await bucket.get(f"{folder}/a", tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == LARGE
    assert calls.count("upload_part") == 3
    assert calls[-2] == "complete_multipart_upload"


async def test_a_text_is_stored_as_what_it_is(bucket: Bucket, folder: str, tmp_path: Path) -> None:
    await bucket.put_text('{"ä": 1}', f"{folder}/a.json", "application/json")
    await bucket.get(f"{folder}/a.json", tmp_path / "b")

    assert (tmp_path / "b").read_text() == '{"ä": 1}'
    head = await bucket._session.call("head_object", f"{folder}/a.json")
    assert head["ContentType"] == "application/json"


@pytest.mark.parametrize("error", [Unreachable("gone"), asyncio.CancelledError()])
async def test_an_upload_that_stops_midway_leaves_neither_object_nor_parts(
    bucket: Bucket,
    folder: str,
    large: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    sign = bucket._session.sign

    async def failing(method: str, uri: str, **parameters: Any) -> str:
        if method == "upload_part" and parameters["PartNumber"] == 3:
            raise error
        return await sign(method, uri, **parameters)

    monkeypatch.setattr(bucket._session, "sign", failing)
    with pytest.raises(type(error)):
        await bucket.put(large, f"{folder}/a", "video/mp4")

    assert calls[-1] == "abort_multipart_upload"
    assert await bucket.size(f"{folder}/a") is None


async def test_a_missing_or_unreadable_source_is_an_os_error(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    for source in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=r"No such file|directory"):
            await bucket.put(source, f"{folder}/a", "image/png")


async def test_a_presigned_url_needs_no_login_and_lasts_no_longer_than_asked(
    bucket: Bucket, folder: str, storage: StackAddresses
) -> None:
    assert storage.storage_credentials is not None
    await bucket.put_text("x", f"{folder}/a b#c.txt", "text/plain")

    url = await bucket.presign(f"{folder}/a b#c.txt", 90.9)

    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-Expires"] == "90"
    assert storage.storage_credentials.secret_access_key not in url
    assert urlsplit(url).path.startswith("/comfyline/")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).text == "x"
        signature = query["X-Amz-Signature"]
        other = ("0" if signature[0] != "0" else "1") + signature[1:]
        assert (await http.get(url.replace(signature, other))).status_code == 403
        assert (await http.get(url.split("?")[0])).is_client_error


async def test_without_an_endpoint_the_region_of_the_environment_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    async with Bucket(None, "AKIDEXAMPLE", "a-secret") as bucket:
        url = await bucket.presign("s3://a-bucket/a.png", 60)

    assert urlsplit(url).hostname == "a-bucket.s3.eu-central-1.amazonaws.com"
    assert "eu-central-1" in parse_qs(urlsplit(url).query)["X-Amz-Credential"][0]


async def test_wrong_keys_are_told_without_showing_them(
    storage: StackAddresses, folder: str, tmp_path: Path
) -> None:
    keys = storage.storage_credentials
    assert keys is not None
    (tmp_path / "a").write_bytes(b"x")
    for key, secret in (("AKIDWRONG", "wrong-secret"), (keys.access_key_id, "wrong-secret")):
        async with Bucket(storage.storage_endpoint, key, secret) as bucket:
            said = [
                str(await failing(bucket.size(f"{folder}/a"))),
                str(await failing(bucket.put(tmp_path / "a", f"{folder}/a", "image/png"))),
                str(await failing(bucket.get(f"{folder}/a", tmp_path / "b"))),
            ]
        for text in said:
            assert storage.storage_endpoint in text
            assert "AWS_" in text
            assert not [one for one in (key, secret, "Signature=") if one in text]


async def test_a_missing_bucket_is_told_and_is_no_missing_file(
    bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    uri = "s3://no-such-bucket/a"

    for work in (
        bucket.size(uri),
        bucket.put(tmp_path / "a", uri, "image/png"),
        bucket.get(uri, tmp_path / "b"),
    ):
        assert "There is no bucket no-such-bucket at http" in str(await failing(work))


async def test_a_dead_endpoint_is_told_after_a_few_attempts() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    named, patience = endpoint.replace("//", "//me:pass@"), Patience(sleep=slept)
    async with Bucket(named, "AKID", "a-secret", patience=patience) as bucket:
        text = str(await failing(bucket.size("s3://b/a")))

    assert len(pauses) == 3
    assert sum(pauses) < 5
    assert pauses[0] < pauses[1] < pauses[2]
    assert endpoint in text
    assert "does not answer for s3://b/a" in text
    assert not [one for one in ("AKID", "a-secret", "me:pass") if one in text]


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "not an address"])
async def test_a_malformed_endpoint_is_told(endpoint: str) -> None:
    async with Bucket(endpoint, "AKID", "a-secret") as bucket:
        assert "Object storage" in str(await failing(bucket.size("s3://b/a")))


async def test_without_any_credentials_the_error_says_which_to_set(
    no_credentials: None,  # noqa: ARG001
) -> None:
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        for work in (bucket.size("s3://b/a"), bucket.presign("s3://b/a", 60)):
            assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(await failing(work))


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


async def failing(work: Any) -> Unreachable:
    with pytest.raises(Unreachable) as caught:
        await work
    assert caught.value.hint
    return caught.value
