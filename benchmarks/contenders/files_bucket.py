"""The side of comfyline in `files`: `Bucket`, each body checked by the server."""

import asyncio
import os
import sys
from pathlib import Path

from benchmarks.contenders.abreast import move
from comfyline.config.settings import StorageSettings
from comfyline.storage.s3 import Bucket

_FOLDER = "s3://comfyline/files"


async def main(way: str) -> None:
    """Put or get all files."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    async with Bucket(StorageSettings("", endpoint)) as bucket:
        await bucket.size(f"{_FOLDER}/none")  # the first call opens the session

        async def one(file: Path, name: str) -> None:
            if way == "up":
                await bucket.put(file, f"{_FOLDER}/{name}", "image/png")
            else:
                await bucket.get(f"{_FOLDER}/{name}", file)

        await move(way, one)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
