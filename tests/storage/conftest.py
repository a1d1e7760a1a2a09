"""A bucket of the shared object storage, and what was asked of it."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from comfyline.stack.control import StackAddresses
from comfyline.storage.bucket import Bucket

OpenBucket = Callable[[], AbstractAsyncContextManager[Bucket]]


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
    call = bucket._call

    async def recorded(method: str, uri: str, **parameters: Any) -> Any:
        made.append(method)
        return await call(method, uri, **parameters)

    monkeypatch.setattr(bucket, "_call", recorded)
    return made
