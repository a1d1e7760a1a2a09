"""How a bucket is reached, what is signed, and what is said when it cannot be."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from comfyline.config.settings import StorageSettings
from comfyline.errors import DiskFull, Unreachable
from comfyline.storage.s3 import Bucket, Patience
from tests.conftest import ROOT
from tests.runcomfy.tls import certificate
from tests.storage.conftest import head, s3_client
from tests.storage.faults import Proxy, proxy_of
from tests.storage.servers import Server

PARTS_BYTES = (8 << 20) + 1


async def failing(work: Any) -> str:
    with pytest.raises(Unreachable) as caught:
        await work
    assert caught.value.hint
    return str(caught.value)


def keys(endpoint: str | None, key: str = "AKIDEXAMPLE") -> StorageSettings:
    return StorageSettings("", endpoint, SecretStr(key), SecretStr("a-secret"))


async def signed(settings: StorageSettings) -> tuple[str, dict[str, str]]:
    """The address of a presigned URL without its query, and the query."""
    async with Bucket(settings) as bucket:
        url = urlsplit(await bucket.presign("s3://a-bucket/a.png", 60))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    return f"{url.scheme}://{url.netloc}{url.path}", query


@pytest.mark.parametrize(
    ("endpoint", "style", "address"),
    [
        (None, "auto", "https://a-bucket.s3.eu-west-1.amazonaws.com/a.png"),
        ("https://s3.example.com", "auto", "https://s3.example.com/a-bucket/a.png"),
        ("https://s3.example.com", "virtual", "https://a-bucket.s3.example.com/a.png"),
    ],
)
async def test_region_and_style_decide_where_the_bucket_stands(
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str | None,
    style: Literal["auto", "path", "virtual"],
    address: str,
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")

    found, query = await signed(replace(keys(endpoint), addressing_style=style))

    assert found == address
    assert "/eu-west-1/" in query["X-Amz-Credential"]


async def test_a_profile_of_the_aws_files_signs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[profile studio]\nregion = eu-north-1\n")
    (tmp_path / "credentials").write_text(
        "[studio]\naws_access_key_id = AKIDSTUDIO\naws_secret_access_key = x\n"
        "aws_session_token = a-token\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    address, query = await signed(StorageSettings("", aws_profile="studio"))

    assert address == "https://a-bucket.s3.eu-north-1.amazonaws.com/a.png"
    assert query["X-Amz-Credential"].startswith("AKIDSTUDIO/")
    assert query["X-Amz-Security-Token"] == "a-token"
    said = await failing(signed(StorageSettings("", aws_profile="none")))
    assert "no AWS profile of the given name" in said


async def test_a_presigned_url_asks_nobody_and_is_good_for_nothing_else(
    bucket: Bucket, rclone_server: Server, folder: str
) -> None:
    await bucket.put_text("x", f"{folder}/a b#c.txt", "text/plain")

    url = await bucket.presign(f"{folder}/a b#c.txt", 90.9)

    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-Expires"] == "90"
    assert str(rclone_server.secret) not in url
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).text == "x"
        signature = query["X-Amz-Signature"]
        other = ("0" if signature[0] != "0" else "1") + signature[1:]
        assert (await http.get(url.replace(signature, other))).status_code == 403
        assert (await http.get(url.split("?")[0])).is_client_error
    async with Bucket(keys("http://127.0.0.1:9")) as nowhere:
        assert await nowhere.presign("s3://b/a", 60)


async def test_the_storage_options_are_given_to_every_object_and_no_type_that_a_browser_would_run(
    moto_server: Server, tmp_path: Path
) -> None:
    options = {"encryption": "aws:kms", "kms_key": "key-7", "storage_class": "STANDARD_IA"}
    folder = f"{moto_server.folder}/options"
    async with Bucket(replace(moto_server.settings(), **options)) as bucket:
        for name, size in (("small", 3), ("parts", PARTS_BYTES)):
            (tmp_path / name).write_bytes(bytes(size))
            await bucket.put(tmp_path / name, f"{folder}/{name}", "image/svg+xml")
        await bucket.put_text("{}", f"{folder}/text", "text/html")

    for name in ("small", "parts", "text"):
        found = head(moto_server, f"{folder}/{name}")
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"].endswith("key-7")
        assert found["StorageClass"] == "STANDARD_IA"
        assert found["ContentType"] == "application/octet-stream"


async def test_a_company_authority_is_trusted_when_it_is_named(
    rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    authority, uri = certificate(tmp_path), f"{folder}/https"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    assert rclone_server.endpoint is not None
    async with proxy_of(rclone_server.endpoint, tls) as https:
        plain = rclone_server.settings(https.url)
        async with Bucket(replace(plain, ca_bundle=str(authority))) as bucket:
            await bucket.put_text("x", uri, "text/plain")
            assert await bucket.size(uri) == 1
        async with Bucket(plain) as bucket:
            for work in (bucket.size(uri), bucket.get(uri, tmp_path / "a")):
                said = await failing(work)
                assert "not trusted" in said
                assert "storage.ca_bundle" in said
        async with Bucket(replace(plain, ca_bundle=str(tmp_path / "none.pem"))) as bucket:
            assert "none.pem cannot be read" in await failing(bucket.size(uri))


async def test_a_bucket_in_another_region_is_found_where_it_is(
    monkeypatch: pytest.MonkeyPatch, moto_server: Server, tmp_path: Path
) -> None:
    server = moto_server
    assert server.endpoint is not None
    uri = "s3://elsewhere/a"
    (tmp_path / "a").write_bytes(b"x")
    where = {"LocationConstraint": "eu-west-1"}
    s3_client(server).create_bucket(Bucket="elsewhere", CreateBucketConfiguration=where)
    async with proxy_of(server.endpoint) as proxy:
        proxy.region = "eu-west-1"
        # Only what looks like AWS is asked for a region.
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        settings = replace(server.settings(), endpoint_url=None, addressing_style="path")
        async with Bucket(settings) as bucket:
            await bucket.put(tmp_path / "a", uri, "text/plain")
            await bucket.get(uri, tmp_path / "b")
            assert "eu-west-1" in await bucket.presign(uri, 60)

    assert (tmp_path / "b").read_bytes() == b"x"


@pytest.mark.parametrize("fault", ["keys", "bucket"])
async def test_wrong_keys_and_a_missing_bucket_are_told_and_are_no_missing_file(
    bucket: Bucket, rclone_server: Server, folder: str, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    key, endpoint = str(rclone_server.key), str(rclone_server.endpoint)
    uri, expected = f"{folder}/a", "AWS_"
    if fault == "bucket":
        uri, expected = "s3://no-such-bucket/a", "There is no bucket no-such-bucket at http"
    async with Bucket(keys(endpoint, key)) as with_wrong_keys:
        asked = bucket if fault == "bucket" else with_wrong_keys
        for work in (
            asked.size(uri),
            asked.put(tmp_path / "a", uri, "image/png"),
            asked.get(uri, tmp_path / "b"),
        ):
            said = await failing(work)
            assert expected in said
            assert endpoint in said
            assert not [one for one in (key, "a-secret", "Signature=") if one in said]


async def test_a_dead_endpoint_is_told_after_a_few_attempts() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    named, patience = endpoint.replace("//", "//me:pass@"), Patience(sleep=slept)
    async with Bucket(keys(named), patience) as bucket:
        said = await failing(bucket.size("s3://b/a"))

    assert len(pauses) == 3
    assert sum(pauses) < 5
    assert endpoint in said
    assert "does not answer for s3://b/a: the connection was refused" in said
    assert not [one for one in ("AKIDEXAMPLE", "a-secret", "me:pass") if one in said]


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not an address"])
async def test_a_malformed_endpoint_is_told(endpoint: str) -> None:
    async with Bucket(keys(endpoint)) as bucket:
        assert "Object storage" in await failing(bucket.size("s3://b/a"))


async def test_without_any_credentials_the_error_says_which_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with Bucket(StorageSettings("", "http://127.0.0.1:9")) as bucket:
        for work in (bucket.size("s3://b/a"), bucket.presign("s3://b/a", 60)):
            assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in await failing(work)


async def test_a_source_that_cannot_be_read_is_an_os_error_and_a_full_disk_is_told_as_one(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    for source in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=r"No such file|directory"):
            await bucket.put(source, f"{folder}/a", "image/png")
    await bucket.put_text("x", f"{folder}/a", "text/plain")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        await bucket.get(f"{folder}/a", tmp_path / "full")


async def test_an_upload_that_is_cancelled_leaves_neither_object_nor_parts(
    wire: Proxy, wired: Bucket, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(PARTS_BYTES))
    stalled = wire.order("stall", r"^PUT \S*partNumber=2")
    putting = asyncio.create_task(wired.put(tmp_path / "large", f"{folder}/a", "video/mp4"))
    while not stalled.seen:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert wire.requests[-1].startswith("DELETE ")
    assert await wired.size(f"{folder}/a") is None


SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from benchmarks.contenders.side import peak_mb
from pydantic import SecretStr
from comfyline.config.settings import StorageSettings
from comfyline.storage.inputs import Inputs
from comfyline.storage.s3 import Bucket

large, small, folder = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

async def all_ways(bucket, source):
    await Inputs(bucket).read(str(source))
    hashed = peak_mb()
    await bucket.put(source, f"{folder}/{source.name}", "video/mp4")
    put = peak_mb()
    await bucket.get(f"{folder}/{source.name}", source.with_suffix(".copy"))
    await Inputs(bucket).read(f"{folder}/{source.name}")
    return hashed, put, peak_mb()

async def main():
    keys = SecretStr(os.environ["KEY"]), SecretStr(os.environ["SECRET"])
    async with Bucket(StorageSettings("", os.environ["ENDPOINT"], *keys)) as bucket:
        base = (await all_ways(bucket, small))[-1]
        print(json.dumps([now - base for now in await all_ways(bucket, large)]))

asyncio.run(main())
"""


def test_memory_does_not_follow_the_size_of_a_file(
    rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(1 << 20) * 80)
    small.write_bytes(b"x")
    access = {
        "ENDPOINT": str(rclone_server.endpoint),
        "KEY": str(rclone_server.key),
        "SECRET": str(rclone_server.secret),
    }

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, large, small, folder],
        env=os.environ | access,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)) < 60, done.stdout
    assert large.with_suffix(".copy").stat().st_size == 80 << 20
