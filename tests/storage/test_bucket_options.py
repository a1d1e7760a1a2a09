"""What a profile may say of a storage: seen in what is signed, and in what the server has."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from comfyline.errors import Unreachable
from comfyline.storage.bucket import Bucket
from comfyline.storage.bucket_options import BucketOptions
from tests.storage.faults import Proxy, proxy_of
from tests.storage.servers import Server

PARTS_BYTES = (8 << 20) + 1


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
async def test_the_bucket_stands_where_the_style_has_it(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, style: str, address: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")

    found, _ = await signed(endpoint, BucketOptions(addressing_style=style))  # type: ignore[arg-type]

    assert found == address


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
    with pytest.raises(Unreachable, match="no such AWS profile"):
        await signed(None, BucketOptions(aws_profile="none"), None)


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
            head = await bucket._session.call("head_object", f"{server.folder}/options/{name}")
            assert head["ServerSideEncryption"] == "aws:kms"
            assert head["SSEKMSKeyId"].endswith("key-7")
            assert head["StorageClass"] == "STANDARD_IA"


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


@pytest.fixture
async def https(authority: Path, rclone_server: Server) -> AsyncIterator[Proxy]:
    assert rclone_server.endpoint is not None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    async with proxy_of(rclone_server.endpoint, tls) as proxy:
        yield proxy


async def test_a_company_authority_is_trusted_when_it_is_named(
    https: Proxy, authority: Path, rclone_server: Server, tmp_path: Path
) -> None:
    keys = rclone_server.key, rclone_server.secret
    uri = f"{rclone_server.folder}/options/https"
    async with Bucket(https.url, *keys, BucketOptions(ca_bundle=str(authority))) as bucket:
        await bucket.put_text("x", uri, "text/plain")
        assert await bucket.size(uri) == 1
    async with Bucket(https.url, *keys) as bucket:
        for work in (bucket.size(uri), bucket.get(uri, tmp_path / "a")):
            with pytest.raises(Unreachable, match=r"not trusted.*storage\.ca_bundle"):
                await work


async def test_a_bucket_in_another_region_is_found_where_it_is(
    monkeypatch: pytest.MonkeyPatch, moto_server: Server, tmp_path: Path
) -> None:
    server = moto_server
    assert server.endpoint is not None
    uri = "s3://elsewhere/a"
    (tmp_path / "a").write_bytes(b"x")
    async with proxy_of(server.endpoint) as proxy:
        proxy.region = "eu-west-1"
        # Only what looks like AWS is asked for a region.
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        path = BucketOptions(addressing_style="path")
        where = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
        async with Bucket(None, server.key, server.secret, path) as bucket:
            await bucket._session.call("create_bucket", "s3://elsewhere", **where)
            await bucket.put(tmp_path / "a", uri, "text/plain")
            await bucket.get(uri, tmp_path / "b")
            assert "eu-west-1" in await bucket.presign(uri, 60)

    assert (tmp_path / "b").read_bytes() == b"x"


async def test_an_authority_that_is_no_file_is_told(tmp_path: Path) -> None:
    missing = BucketOptions(ca_bundle=str(tmp_path / "none.pem"))
    async with Bucket("https://127.0.0.1:9", "AKIDEXAMPLE", "a-secret", missing) as bucket:
        with pytest.raises(Unreachable, match=r"none\.pem cannot be read"):
            await bucket.size("s3://b/a")


@pytest.mark.parametrize("media_type", ["image/svg+xml", "text/html", "application/xhtml+xml"])
def test_nothing_is_stored_as_what_a_browser_would_run(media_type: str) -> None:
    assert BucketOptions().written(media_type, {})["ContentType"] == "application/octet-stream"
