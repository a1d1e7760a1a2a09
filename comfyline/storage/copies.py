"""Converted copies of inputs: made beside the work of the run, uploaded under their own content.

The original stays as it is. A copy lies on disk for as long as its upload takes, under a name by
which a later run knows it for a leftover, should this process be killed.
"""

import asyncio
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from comfyline.errors import InputInvalid, Problem
from comfyline.files import part_path, why_not
from comfyline.job import Media
from comfyline.media.convert import Conversion, Unconvertible, convert
from comfyline.media.types import MOST_BYTES
from comfyline.redact import bare_origin
from comfyline.storage.origins import Origins, is_remote, origin_path
from comfyline.storage.reading import Hasher
from comfyline.storage.uploads import Uploads

COPIES = "copies"
"""The folder under the home in which copies lie until they are uploaded."""

_AT_ONCE = 2
"""Copies made at a time: each takes the memory of a decoded picture, and a processor."""


class Copies:
    """Puts inputs where RunComfy can fetch them: as they are, or a converted copy of each.

    `folder` is where copies lie until they are uploaded.
    """

    def __init__(self, origins: Origins, uploads: Uploads, folder: Path) -> None:
        self._origins = origins
        self._uploads = uploads
        self._folder = folder
        self._made: dict[tuple[str, str], str] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def put(self, media: Media) -> str:
        """Where RunComfy will find a media input: the original, or the copy that it asks for.

        Raises `InputInvalid` when no copy can be made, or the original is no longer what was
        checked, and `Unreachable`.
        """
        if not media.conversion:
            return await self._uploads.put(media)
        this = media.sha256, media.conversion
        async with self._turns[this]:
            if this not in self._made:
                async with self._gate, self._copy(media) as copy:
                    self._made[this] = await self._uploads.put(copy)
        return self._made[this]

    @asynccontextmanager
    async def local(self, origin: str) -> AsyncIterator[Path]:
        """Give a media input as a file on this machine, for as long as the block takes.

        Raises `OSError` or `Unreachable`.
        """
        if not is_remote(origin):
            yield origin_path(origin)
            return
        async with self._temporary() as path:
            with path.open("xb") as file:

                def take(chunk: bytes) -> None:
                    file.write(chunk)

                await self._origins.pour(origin, take)
            yield path

    @asynccontextmanager
    async def _copy(self, media: Media) -> AsyncIterator[Media]:
        """Give the copy of a medium, as the medium that is uploaded."""
        shown = bare_origin(media.origin)
        try:
            async with self.local(media.origin) as original, self._temporary() as path:
                yield await asyncio.to_thread(_converted, media, original, path)
        except Unconvertible as error:
            raise InputInvalid([Problem(shown, str(error))]) from error
        except OSError as error:
            message = f"it cannot be converted: {why_not(error)}"
            raise InputInvalid([Problem(shown, message, "run again")]) from error

    @asynccontextmanager
    async def _temporary(self) -> AsyncIterator[Path]:
        """Give a name for a file that is gone after the block."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        path = part_path(self._folder / "copy")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _converted(media: Media, original: Path, target: Path) -> Media:
    """Convert one file. Raises `InputInvalid`, `Unconvertible` or `OSError`."""
    shown = bare_origin(media.origin)
    conversion = Conversion.parse(media.conversion)
    with original.open("rb") as source:
        if hashlib.file_digest(source, "sha256").hexdigest() != media.sha256:
            message = "the file is no longer the one that was checked"
            raise InputInvalid([Problem(shown, message, "run again")])
        # Not readable by others: what it is made from may not be.
        handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w+b") as file:
            convert(source, media.media_type, conversion, file)
            file.seek(0)
            seen = Hasher()
            while chunk := file.read(1 << 20):
                seen.take(chunk)
    if seen.bytes > MOST_BYTES[media.kind]:
        size, most = seen.bytes / 2**20, MOST_BYTES[media.kind] >> 20
        message = f"its {conversion.form.upper()} copy has {size:.1f} MB; RunComfy takes {most} MB"
        hint = "write `downscale: true` under the step to submit a smaller one"
        raise InputInvalid([Problem(shown, message, hint)])
    return replace(
        media,
        origin=str(target),
        sha256=seen.sha256,
        bytes=seen.bytes,
        media_type=seen.media_type,
        conversion="",
    )
