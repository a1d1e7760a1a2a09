"""The fastest plain side of `files`: presigned URLs and aiohttp's own streaming, unchecked."""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from benchmarks.contenders.abreast import move

_CHUNK = 1024 * 1024


async def main(way: str) -> None:
    """Put or get all files."""
    config = AioConfig(signature_version="s3v4", request_checksum_calculation="when_required")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    async with (
        AioSession().create_client("s3", endpoint_url=endpoint, config=config) as client,
        aiohttp.ClientSession() as http,
    ):

        async def one(file: Path, name: str) -> None:
            operation = "put_object" if way == "up" else "get_object"
            place = {"Bucket": "comfyline", "Key": f"files/{name}"}
            url = await client.generate_presigned_url(operation, Params=place)
            if way == "up":
                with file.open("rb") as source:
                    async with http.put(url, data=source) as answer:
                        answer.raise_for_status()
                return
            async with http.get(url) as answer:
                answer.raise_for_status()
                with file.open("wb") as target:
                    async for chunk in answer.content.iter_chunked(_CHUNK):
                        target.write(chunk)

        await move(way, one)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
