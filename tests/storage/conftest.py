"""A bucket of the shared object storage, and what was asked of it."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import pytest

from comfyline.stack.stack import StackAddresses
from comfyline.storage.s3 import Bucket
from tests.storage.faults import Proxy, proxy_of
from tests.storage.servers import Server, moto, named


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto() as found:
        yield found


@pytest.fixture(scope="session")
def rclone_server(storage: StackAddresses) -> Server:
    keys = storage.storage_credentials
    assert keys is not None
    return Server("rclone", storage.storage_endpoint, keys.access_key_id, keys.secret_access_key)


@pytest.fixture(scope="session", params=["rclone", "moto"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each S3 server in turn."""
    if request.param == "named":
        return named()
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(scope="session")
async def bucket(rclone_server: Server) -> AsyncIterator[Bucket]:
    async with Bucket(rclone_server.settings()) as opened:
        yield opened


@pytest.fixture
def folder() -> str:
    """A folder in object storage that no other test uses."""
    return f"s3://comfyline/{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
async def proxy(rclone_server: Server) -> AsyncIterator[Proxy]:
    """A proxy in front of the storage, which knows what it was asked for."""
    assert rclone_server.endpoint is not None
    async with proxy_of(rclone_server.endpoint) as opened:
        yield opened


@pytest.fixture
def wire(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy as each test finds it: asked for nothing, and without faults."""
    proxy.requests.clear()
    proxy.faults.clear()
    yield proxy
    proxy.faults.clear()


@pytest.fixture
async def wired(wire: Proxy, rclone_server: Server) -> AsyncIterator[Bucket]:
    """A bucket of its own, as a new process would open it, seen through the proxy."""
    async with Bucket(rclone_server.settings(wire.url)) as bucket:
        yield bucket


def s3_client(server: Server) -> Any:
    """What looks at a server without the code that is tested."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name=None if server.endpoint is None else "us-east-1",
    )


def head(server: Server, uri: str) -> dict[str, Any]:
    """What a server says of an object."""
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    found: dict[str, Any] = s3_client(server).head_object(Bucket=bucket, Key=key)
    return found
