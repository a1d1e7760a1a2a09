"""The side of comfyline in `memory`: one file through `Bucket`."""

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.contenders.side import peak_mb, start
from comfyline.config.settings import StorageSettings
from comfyline.storage.s3 import Bucket

_URI = "s3://comfyline/memory/bucket"


async def main(way: str) -> None:
    """Put or get the file."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    async with Bucket(StorageSettings("", endpoint)) as bucket:
        await bucket.size(_URI)  # the first call opens the session
        base, watch = peak_mb(), start()
        if way == "put":
            await bucket.put(Path("large"), _URI, "video/mp4")
        else:
            await bucket.get(_URI, Path("large-bucket"))
        watch.tell(base_mb=base)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
