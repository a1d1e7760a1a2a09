"""The plain side of `chain`: what somebody writes in an afternoon with s3fs and httpx."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import s3fs

from benchmarks.contenders.side import start

_MODEL = "google/nano-banana/pro/edit"
_PAUSE = 0.5


async def main(in_flight: int) -> None:
    """Make one picture of every photograph, without a word to anybody of how it went."""
    photos = sorted(Path("photos").glob("*.jpg"))  # noqa: ASYNC240  # before the start
    outputs = Path("outputs/script")
    outputs.mkdir(parents=True)  # noqa: ASYNC240
    slots = asyncio.Semaphore(in_flight)
    watch = start()
    # Without it, URLs are signed in a way that most servers no longer take.
    bucket: Any = s3fs.S3FileSystem(asynchronous=True, config_kwargs={"signature_version": "s3v4"})
    session = await bucket.set_session()
    headers = {"Authorization": f"Bearer {os.environ['RUNCOMFY_API_TOKEN']}"}
    api = os.environ["RUNCOMFY_BASE_URL"]
    async with (
        httpx.AsyncClient(base_url=api, headers=headers, timeout=60) as http,
        httpx.AsyncClient(timeout=60) as cdn,
    ):
        await asyncio.gather(*(_make(photo, outputs, bucket, http, cdn, slots) for photo in photos))
    watch.tell()
    await session.close()


async def _make(
    photo: Path,
    outputs: Path,
    bucket: Any,
    http: httpx.AsyncClient,
    cdn: httpx.AsyncClient,
    slots: asyncio.Semaphore,
) -> None:
    """Put, presign, POST, ask every half second, GET, write."""
    remote = f"comfyline/script/{photo.name}"
    await bucket._put_file(str(photo), remote)  # noqa: SLF001  # s3fs's async API
    url = await bucket._url(remote, expires=3600)  # noqa: SLF001
    inputs = {
        "prompt": "black and white",
        "image_urls": [url],
        "aspect_ratio": "21:9",
        "output_format": "jpeg",
    }
    async with slots:
        accepted = (await http.post(f"/v1/models/{_MODEL}", json=inputs)).raise_for_status().json()
        request = f"/v1/requests/{accepted['request_id']}"
        while (status := await _status(http, request)) != "completed":
            if status == "failed":
                sys.exit(f"{request} failed")
            await asyncio.sleep(_PAUSE)
    result = (await http.get(f"{request}/result")).raise_for_status().json()
    for picture in result["output"]["images"]:
        content = (await cdn.get(picture)).raise_for_status().content
        (outputs / photo.name).write_bytes(content)


async def _status(http: httpx.AsyncClient, request: str) -> str:
    answer = (await http.get(f"{request}/status")).raise_for_status().json()
    return str(answer["status"])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
