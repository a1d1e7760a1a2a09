"""How a bucket is reached, what is signed, and what is said when it cannot be."""

import asyncio
import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from comfyline.errors import DiskFull, Unreachable
from comfyline.storage.s3 import AddressingStyle, Bucket, BucketOptions, Patience
from tests.conftest import ROOT
from tests.storage.conftest import head, s3_client
from tests.storage.faults import proxy_of
from tests.storage.servers import Server

PARTS_BYTES = (8 << 20) + 1


async def failing(work: Any) -> str:
    with pytest.raises(Unreachable) as caught:
        await work
    assert caught.value.hint
    return str(caught.value)


async def signed(
    endpoint: str | None, options: BucketOptions, key: str | None = "AKIDEXAMPLE"
) -> tuple[str, dict[str, str]]:
    """The address of a presigned URL without its query, and the query."""
    async with Bucket(endpoint, key, key and "a-secret", options) as bucket:
        url = urlsplit(await bucket.presign("s3://a-bucket/a.png", 60))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    return f"{url.scheme}://{url.netloc}{url.path}", query


@pytest.mark.parametrize(
    ("endpoint", "style", "address"),
    [
        (None, "auto", "https://a-bucket.s3.eu-west-1.amazonaws.com/a.png"),
        (None, "path", "https://s3.eu-west-1.amazonaws.com/a-bucket/a.png"),
        ("https://s3.example.com", "auto", "https://s3.example.com/a-bucket/a.png"),
        ("https://s3.example.com", "virtual", "https://a-bucket.s3.example.com/a.png"),
    ],
)
async def test_region_and_style_decide_where_the_bucket_stands(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, style: AddressingStyle, address: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")

    found, query = await signed(endpoint, BucketOptions(addressing_style=style))

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

    address, query = await signed(None, BucketOptions(aws_profile="studio"), None)

    assert address == "https://a-bucket.s3.eu-north-1.amazonaws.com/a.png"
    assert query["X-Amz-Credential"].startswith("AKIDSTUDIO/")
    assert query["X-Amz-Security-Token"] == "a-token"
    said = await failing(signed(None, BucketOptions(aws_profile="none"), None))
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
    async with Bucket("http://127.0.0.1:9", "AKID", "a-secret") as nowhere:
        assert await nowhere.presign("s3://b/a", 60)


async def test_encryption_and_class_are_given_to_every_object(
    moto_server: Server, tmp_path: Path
) -> None:
    options = BucketOptions(encryption="aws:kms", kms_key="key-7", storage_class="STANDARD_IA")
    server = moto_server
    async with Bucket(server.endpoint, server.key, server.secret, options) as bucket:
        for name, size in (("small", 3), ("parts", PARTS_BYTES)):
            (tmp_path / name).write_bytes(bytes(size))
            await bucket.put(tmp_path / name, f"{server.folder}/options/{name}", "image/png")
        await bucket.put_text("{}", f"{server.folder}/options/text", "application/json")

    for name in ("small", "parts", "text"):
        found = head(server, f"{server.folder}/options/{name}")
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"].endswith("key-7")
        assert found["StorageClass"] == "STANDARD_IA"


@pytest.mark.parametrize("media_type", ["image/svg+xml", "text/html", "application/xhtml+xml"])
def test_nothing_is_stored_as_what_a_browser_would_run(media_type: str) -> None:
    assert BucketOptions().written(media_type, {})["ContentType"] == "application/octet-stream"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate that signs itself for 127.0.0.1, and its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "storage")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "both.pem").write_bytes(private + certificate.public_bytes(pem))
    return tmp_path / "both.pem"


async def test_a_company_authority_is_trusted_when_it_is_named(
    authority: Path, rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    keys, uri = (rclone_server.key, rclone_server.secret), f"{folder}/https"
    assert rclone_server.endpoint is not None
    async with proxy_of(rclone_server.endpoint, tls) as https:
        async with Bucket(https.url, *keys, BucketOptions(ca_bundle=str(authority))) as bucket:
            await bucket.put_text("x", uri, "text/plain")
            assert await bucket.size(uri) == 1
        async with Bucket(https.url, *keys) as bucket:
            for work in (bucket.size(uri), bucket.get(uri, tmp_path / "a")):
                said = await failing(work)
                assert "not trusted" in said
                assert "storage.ca_bundle" in said
    missing = BucketOptions(ca_bundle=str(tmp_path / "none.pem"))
    async with Bucket("https://127.0.0.1:9", *keys, missing) as bucket:
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
        path = BucketOptions(addressing_style="path")
        async with Bucket(None, server.key, server.secret, path) as bucket:
            await bucket.put(tmp_path / "a", uri, "text/plain")
            await bucket.get(uri, tmp_path / "b")
            assert "eu-west-1" in await bucket.presign(uri, 60)

    assert (tmp_path / "b").read_bytes() == b"x"


async def test_wrong_keys_are_told_without_showing_them(
    rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for key in ("AKIDWRONG", rclone_server.key):
        async with Bucket(rclone_server.endpoint, key, "wrong-secret") as bucket:
            for work in (
                bucket.size(f"{folder}/a"),
                bucket.put(tmp_path / "a", f"{folder}/a", "image/png"),
                bucket.get(f"{folder}/a", tmp_path / "b"),
            ):
                said = await failing(work)
                assert str(rclone_server.endpoint) in said
                assert "AWS_" in said
                assert not [one for one in (str(key), "wrong-secret", "Signature=") if one in said]


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
        assert "There is no bucket no-such-bucket at http" in await failing(work)


async def test_a_dead_endpoint_is_told_after_a_few_attempts() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    pauses: list[float] = []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    named, patience = endpoint.replace("//", "//me:pass@"), Patience(sleep=slept)
    async with Bucket(named, "AKID", "a-secret", patience=patience) as bucket:
        said = await failing(bucket.size("s3://b/a"))

    assert len(pauses) == 3
    assert sum(pauses) < 5
    assert endpoint in said
    assert "does not answer for s3://b/a: the connection was refused" in said
    assert not [one for one in ("AKID", "a-secret", "me:pass") if one in said]


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "not an address"])
async def test_a_malformed_endpoint_is_told(endpoint: str) -> None:
    async with Bucket(endpoint, "AKID", "a-secret") as bucket:
        assert "Object storage" in await failing(bucket.size("s3://b/a"))


async def test_without_any_credentials_the_error_says_which_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with Bucket("http://127.0.0.1:9", None, None) as bucket:
        for work in (bucket.size("s3://b/a"), bucket.presign("s3://b/a", 60)):
            assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in await failing(work)


async def test_a_missing_or_unreadable_source_is_an_os_error(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    for source in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=r"No such file|directory"):
            await bucket.put(source, f"{folder}/a", "image/png")


async def test_a_full_disk_is_told_as_one(bucket: Bucket, folder: str, tmp_path: Path) -> None:
    await bucket.put_text("x", f"{folder}/a", "text/plain")
    (tmp_path / "full").symlink_to("/dev/full")

    with pytest.raises(DiskFull):
        await bucket.get(f"{folder}/a", tmp_path / "full")


async def test_an_upload_that_is_cancelled_leaves_neither_object_nor_parts(
    rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(PARTS_BYTES))
    assert rclone_server.endpoint is not None
    async with (
        proxy_of(rclone_server.endpoint) as proxy,
        Bucket(proxy.url, rclone_server.key, rclone_server.secret) as bucket,
    ):
        stalled = proxy.order("stall", r"^PUT \S*partNumber=2")
        putting = asyncio.create_task(bucket.put(tmp_path / "large", f"{folder}/a", "video/mp4"))
        while not stalled.seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting

        assert proxy.requests[-1].startswith("DELETE ")
        assert await bucket.size(f"{folder}/a") is None


SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from benchmarks.contenders.side import peak_mb
from comfyline.storage.origins import Origins
from comfyline.storage.s3 import Bucket

large, small, folder = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

async def all_ways(bucket, source):
    await Origins(bucket).facts(str(source))
    hashed = peak_mb()
    await bucket.put(source, f"{folder}/{source.name}", "video/mp4")
    put = peak_mb()
    await bucket.get(f"{folder}/{source.name}", source.with_suffix(".copy"))
    await Origins(bucket).facts(f"{folder}/{source.name}")
    return hashed, put, peak_mb()

async def main():
    async with Bucket(os.environ["ENDPOINT"], os.environ["KEY"], os.environ["SECRET"]) as bucket:
        base = (await all_ways(bucket, small))[-1]
        print(json.dumps([now - base for now in await all_ways(bucket, large)]))

asyncio.run(main())
"""


def test_memory_does_not_follow_the_size_of_a_file(
    rclone_server: Server, folder: str, tmp_path: Path
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(1 << 20) * 120)
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
    assert large.with_suffix(".copy").stat().st_size == 120 << 20
