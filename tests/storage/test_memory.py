"""Large files in a process of its own, whose memory is measured by the system."""

import json
import os
import subprocess
import sys
from pathlib import Path

from comfyline.stack.stack import StackAddresses
from tests.conftest import ROOT

MOST_MB = 60
SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from benchmarks.contenders.side import peak_mb
from comfyline.storage.bucket import Bucket
from comfyline.storage.origins import Origins

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
    storage: StackAddresses, folder: str, tmp_path: Path
) -> None:
    keys = storage.storage_credentials
    assert keys is not None
    assert storage.storage_endpoint is not None
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(os.urandom(1 << 20) * 120)
    small.write_bytes(b"x")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, large, small, folder],
        env=os.environ
        | {
            "ENDPOINT": storage.storage_endpoint,
            "KEY": keys.access_key_id,
            "SECRET": keys.secret_access_key,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)) < MOST_MB, done.stdout
    assert large.with_suffix(".copy").stat().st_size == 120 << 20
