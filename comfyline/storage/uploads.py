"""Inputs where RunComfy can fetch them: named by content, uploaded once, presigned when used."""

import asyncio
from collections import defaultdict
from pathlib import Path

from comfyline.job import Media
from comfyline.media import extension
from comfyline.storage.bucket import Bucket


class Uploads:
    """The folder of uploaded inputs in object storage.

    `expires` is the life of a presigned URL in seconds.
    """

    def __init__(self, bucket: Bucket, folder: str, expires: float) -> None:
        self._bucket = bucket
        self._folder = folder
        self._expires = expires
        self._there: set[str] = set()
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def put(self, media: Media) -> str:
        """Where RunComfy will find a media input, uploaded first when it is not there yet.

        What lies in a bucket or on the web already is not copied.
        """
        if media.origin.startswith(("s3://", "https://", "http://")):
            return media.origin
        uri = f"{self._folder}/{media.sha256}.{extension(media.media_type)}"
        async with self._turns[uri]:
            if uri not in self._there:
                if await self._bucket.size(uri) != media.bytes:
                    await self._bucket.put(Path(media.origin), uri, media.media_type)
                self._there.add(uri)
        return uri

    async def presign(self, uri: str) -> str:
        """A URL that RunComfy can read without login: made right before use and kept nowhere."""
        return await self._bucket.presign(uri, self._expires) if uri.startswith("s3://") else uri
