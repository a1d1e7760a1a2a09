"""A bucket of the shared object storage, and what was asked of it."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from comfyline.stack.stack import StackAddresses
from comfyline.storage.bucket import Bucket
from tests.storage.servers import Server, moto, named

OpenServer = Callable[[Server], Awaitable[Bucket]]
OpenBucket = Callable[[], AbstractAsyncContextManager[Bucket]]


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
async def open_server() -> AsyncIterator[OpenServer]:
    """Opens a bucket once for each server: that takes longer than most of what is tested."""
    opened: dict[str, Bucket] = {}
    async with AsyncExitStack() as stack:

        async def opening(server: Server) -> Bucket:
            if server.name not in opened:
                bucket = Bucket(server.endpoint, server.key, server.secret)
                opened[server.name] = await stack.enter_async_context(bucket)
            return opened[server.name]

        yield opening


@pytest.fixture(scope="session")
def open_bucket(storage: StackAddresses) -> OpenBucket:
    """Opens a session of its own each time, as a new process would."""
    keys = storage.storage_credentials
    assert keys is not None

    @asynccontextmanager
    async def opened() -> AsyncIterator[Bucket]:
        async with Bucket(
            storage.storage_endpoint, keys.access_key_id, keys.secret_access_key
        ) as bucket:
            yield bucket

    return opened


@pytest.fixture(scope="session")
async def bucket(open_bucket: OpenBucket) -> AsyncIterator[Bucket]:
    async with open_bucket() as opened:
        yield opened


@pytest.fixture
def folder() -> str:
    """A folder in object storage that no other test uses."""
    return f"s3://comfyline/{secrets.token_hex(6)}"


@pytest.fixture
def calls(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The S3 operations that `bucket` has asked for."""
    return record_calls(bucket, monkeypatch)


def record_calls(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    session = bucket._session
    once, sign = session.call_once, session.sign

    async def called(method: str, uri: str, **parameters: Any) -> Any:
        made.append(method)
        return await once(method, uri, **parameters)

    async def signed(method: str, uri: str, **parameters: Any) -> str:
        made.append(method)
        return await sign(method, uri, **parameters)

    monkeypatch.setattr(session, "call_once", called)
    monkeypatch.setattr(session, "sign", signed)
    return made
