"""The usual side of `files`: s3fs as it comes."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import s3fs

from benchmarks.contenders.abreast import move


async def main(way: str) -> None:
    """Put or get all files."""
    # Without these, downloads fail against a server that is not AWS itself.
    checksums = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    bucket: Any = s3fs.S3FileSystem(asynchronous=True, config_kwargs=checksums)
    session = await bucket.set_session()

    async def one(file: Path, name: str) -> None:
        if way == "up":
            await bucket._put_file(str(file), f"comfyline/files/{name}")  # noqa: SLF001
        else:
            await bucket._get_file(f"comfyline/files/{name}", str(file))  # noqa: SLF001

    await move(way, one)
    await session.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
