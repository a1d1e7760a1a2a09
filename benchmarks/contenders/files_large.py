"""Comfyline's other side in `files`: a large output and a few inputs, all in one process."""

import asyncio
import os
from pathlib import Path

from benchmarks.contenders.side import peak_mb, start
from comfyline.config.settings import StorageSettings
from comfyline.storage.s3 import Bucket

_FOLDER = "s3://comfyline/large"


async def main() -> None:
    """Move everything up, the inputs at once; then the large one down."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    inputs = sorted(Path("inputs").iterdir())  # noqa: ASYNC240  # before the start
    async with Bucket(StorageSettings("", endpoint)) as bucket:
        await bucket.size(f"{_FOLDER}/none")
        base, watch = peak_mb(), start()
        await asyncio.gather(
            *(bucket.put(one, f"{_FOLDER}/{one.name}", "video/mp4") for one in inputs)
        )
        inputs_seconds = watch.seconds
        await bucket.put(Path("large"), f"{_FOLDER}/large", "video/mp4")
        up_seconds = watch.seconds - inputs_seconds
        await bucket.get(f"{_FOLDER}/large", Path("large-down"))
        down_seconds = watch.seconds - inputs_seconds - up_seconds
        watch.tell(
            base_mb=base,
            inputs_seconds=inputs_seconds,
            up_seconds=up_seconds,
            down_seconds=down_seconds,
        )


if __name__ == "__main__":
    asyncio.run(main())
