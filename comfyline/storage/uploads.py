"""Inputs where RunComfy can fetch them: named by content, uploaded once, presigned when used."""

import asyncio
from collections import defaultdict
from pathlib import Path

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Media
from comfyline.media import extension
from comfyline.storage.bucket import Bucket
from comfyline.storage.origins import is_remote


class Uploads:
    """The folder of uploaded inputs in object storage.

    `expires` is the life of a presigned URL in seconds.
    """

    def __init__(self, bucket: Bucket, folder: str, expires: float) -> None:
        self._bucket = bucket
        self._folder = folder.rstrip("/")
        self._expires = expires
        self._there: set[str] = set()
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def put(self, media: Media) -> str:
        """Where RunComfy will find a media input, uploaded first when it is not there yet.

        What lies in a bucket or on the web already is not copied. Raises `InputInvalid` when the
        file is no longer the one that was checked: the name of an upload is a promise of its bytes.
        """
        if is_remote(media.origin):
            return media.origin
        uri = f"{self._folder}/{media.sha256}.{extension(media.media_type)}"
        async with self._turns[uri]:
            if uri not in self._there:
                # A HEAD spares the upload to a new process, which knows of none.
                if await self._bucket.size(uri) != media.bytes:
                    await self._upload(media, uri)
                self._there.add(uri)
        return uri

    async def presign(self, uri: str, mark: str) -> str:
        """A URL that RunComfy can read without login: made right before use and kept nowhere.

        `mark` tells it from every other URL of the same content in the storage's access log.
        """
        if not uri.startswith("s3://"):
            return uri
        return await self._bucket.presign(uri, self._expires, mark)

    async def _upload(self, media: Media, uri: str) -> None:
        source = Path(media.origin)
        try:
            await self._bucket.put(source, uri, media.media_type, sha256=media.sha256)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            message = f"the file was checked and can no longer be read: {reason}"
            raise InputInvalid([Problem(str(source), message, "run again")]) from error
