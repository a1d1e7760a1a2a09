"""Uploads in parts that nobody completes: this machine's dead ones are ended, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from comfyline.storage.bucket import Bucket
from tests.storage.conftest import OpenServer, record_calls
from tests.storage.servers import Server
from tests.storage.test_faults import folder, open_uploads, parts  # noqa: F401  # fixtures

DIES = """
import asyncio, os, sys
from pathlib import Path
from comfyline.storage.bucket import Bucket
from comfyline.storage.bucket_upload import Uploading

endpoint, key, secret, source, uri, notes = sys.argv[1:]

async def killed(*_):
    os._exit(9)

Uploading._send_parts = killed

async def main():
    async with Bucket(endpoint, key, secret, open_uploads=Path(notes)) as bucket:
        await bucket.put(Path(source), uri, "video/mp4")

asyncio.run(main())
"""


def die_uploading(server: Server, source: Path, uri: str, notes: Path) -> None:
    asked = [server.endpoint, server.key, server.secret, source, uri, notes]
    command = [sys.executable, "-c", DIES, *map(str, asked)]
    assert subprocess.run(command, check=False).returncode == 9


@pytest.fixture
async def bucket(server: Server, tmp_path: Path) -> Bucket:
    return Bucket(server.endpoint, server.key, server.secret, open_uploads=tmp_path / "notes")


async def test_a_sweep_ends_what_a_dead_process_left_and_nobody_elses(
    server: Server,
    bucket: Bucket,
    open_server: OpenServer,
    folder: str,  # noqa: F811
    parts: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = await open_server(server)
    await other.put(parts, f"{folder}/there", "video/mp4")
    for name in ("theirs", "ours"):
        await other._session.call("create_multipart_upload", f"{folder}/{name}")
    die_uploading(server, parts, f"{folder}/ours", tmp_path / "notes")
    die_uploading(server, parts, f"{folder}-beside/ours", tmp_path / "notes")
    before = await open_uploads(other, folder)

    async with bucket:
        calls = record_calls(bucket, monkeypatch)
        swept = [await bucket.sweep(folder), await bucket.sweep(folder)]

    assert swept == [1, 0]
    assert calls == ["abort_multipart_upload"]
    left = await open_uploads(other, folder)
    if before:  # Not every server lists them.
        assert sorted(Path(key).name for key in before) == ["ours", "ours", "ours", "theirs"]
        assert sorted(Path(key).name for key in left) == ["ours", "ours", "theirs"]
    assert len(os.listdir(tmp_path / "notes")) == 1  # noqa: PTH208  # as it lies there


async def test_what_is_over_is_noted_no_more(
    bucket: Bucket,
    folder: str,  # noqa: F811
    parts: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with bucket:
        await bucket.put(parts, f"{folder}/whole", "video/mp4")
        with pytest.raises(InputInvalid):
            await bucket.put(parts, f"{folder}/other", "video/mp4", sha256="0" * 64)
        assert await bucket.sweep(folder) == 0

    assert os.listdir(tmp_path / "notes") == []  # noqa: PTH208
