"""The S3 servers that the storage tests run against: two local ones, or a bucket that is named."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from comfyline.config.settings import StorageSettings
from tests.conftest import free_port

NAMED = os.environ.get("COMFYLINE_TEST_BUCKET", "").rstrip("/")
"""`s3://bucket/prefix` of a bucket that a person named, with the keys in the AWS variables."""


@dataclass(frozen=True)
class Server:
    """One S3 server, and the folder in it that the tests may use."""

    name: str
    endpoint: str | None
    key: str | None
    secret: str | None
    folder: str = "s3://comfyline"

    def settings(self, endpoint: str | None = None) -> StorageSettings:
        """How a bucket there is opened, at another address if one is given."""
        keys = [SecretStr(one) if one else None for one in (self.key, self.secret)]
        return StorageSettings(f"{self.folder}/uploads", endpoint or self.endpoint, *keys)


def named() -> Server:
    """Whatever the AWS variables lead to."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoint = next((url for name in names if (url := os.environ.get(name))), None)
    return Server("named", endpoint, None, None, NAMED)


@contextmanager
def moto() -> Iterator[Server]:
    """The server of moto, which checks neither signatures nor bodies."""
    port = free_port()
    # A process of its own: it warns of much that is not ours.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=nothing, stderr=nothing)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _made(f"{url}/comfyline"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server("moto", url, "AKIDEXAMPLE", "a-secret")
    finally:
        process.terminate()
        process.wait(10)


def _made(bucket: str) -> bool:
    try:
        return httpx.put(bucket, trust_env=False).is_success
    except httpx.TransportError:
        return False
