"""Media inputs where they lie: a local path, `s3://…` or `https://…`, read once as a stream."""

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.media import HEAD_BYTES, media_type_of
from comfyline.storage.bucket import Bucket
from comfyline.storage.web import read_url

_CHUNK = 1024 * 1024
_READERS = {"local": 4, "remote": 16}
"""How many tasks share what is asked for at once."""
_FILES_A_HOP = 16
"""Local files read in one go: a hop into a thread costs as much as a small file."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bytes of a media input are. `media_type` is empty when they show none."""

    sha256: str
    bytes: int
    media_type: str


Trouble = OSError | Unreachable
"""Why a media input cannot be read; `FileNotFoundError` when it is not there."""


class Origins:
    """Reads media inputs, each address once a process; only errors are not remembered."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[str, Facts] = {}
        self._reading: dict[str, asyncio.Task[dict[str, Trouble]]] = {}

    async def facts(self, origin: str) -> Facts:
        """Hash, size and type of a media input.

        Raises `FileNotFoundError`, `OSError` for what cannot be read, or `Unreachable`.
        """
        found = self._known.get(origin) or (await self.look([origin]))[origin]
        if isinstance(found, Facts):
            return found
        raise found

    async def look(self, origins: Iterable[str]) -> dict[str, Facts | Trouble]:
        """The facts of many media inputs, or for each what is in the way. Raises nothing."""
        asked = list(dict.fromkeys(origins))
        unknown = [one for one in asked if one not in self._known and one not in self._reading]
        for share in _shares(unknown):
            task = asyncio.create_task(self._read(share))
            self._reading.update(dict.fromkeys(share, task))
        troubles: dict[str, Trouble] = {}
        if waiting := {self._reading[one] for one in asked if one in self._reading}:
            # Not `gather`: who is cancelled must not cancel what others wait for as well.
            await asyncio.wait(waiting)
            for task in waiting:
                troubles |= task.result()
        return {one: self._known[one] if one in self._known else troubles[one] for one in asked}

    async def _read(self, share: Sequence[str]) -> dict[str, Trouble]:
        troubles: dict[str, Trouble] = {}
        step = 1 if is_remote(share[0]) else _FILES_A_HOP
        try:
            for start in range(0, len(share), step):
                some = share[start : start + step]
                for origin, found in zip(some, await self._found(some), strict=True):
                    if isinstance(found, Facts):
                        self._known[origin] = found
                    else:
                        troubles[origin] = found
        finally:
            for origin in share:
                del self._reading[origin]
        return troubles

    async def _found(self, some: Sequence[str]) -> list[Facts | Trouble]:
        if is_remote(some[0]):
            return [await self._far(origin) for origin in some]
        return await asyncio.to_thread(lambda: [_near(origin) for origin in some])

    async def _far(self, origin: str) -> Facts | Trouble:
        seen = _Seen()
        try:
            if origin.startswith("s3://"):
                async with aclosing(self._bucket.read(origin)) as chunks:
                    async for chunk in chunks:
                        seen.take(chunk)
            else:
                await read_url(origin, seen.take)
        except (OSError, Unreachable) as error:
            return error
        return seen.facts()


class _Seen:
    """What has been seen of a file so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._head = b""

    def take(self, chunk: bytes) -> None:
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
        self._digest.update(chunk)
        self._bytes += len(chunk)

    def facts(self) -> Facts:
        return Facts(self._digest.hexdigest(), self._bytes, media_type_of(self._head))


def is_remote(origin: str) -> bool:
    """Whether a media input lies elsewhere than on this machine's disk."""
    return origin.startswith(("s3://", "https://", "http://"))


def read_file(path: Path) -> Facts:
    """Hash, size and type of a local file, read as a stream. Blocking: call it in a thread.

    Raises `OSError`, also for what is no ordinary file.
    """
    seen = _Seen()
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        while chunk := file.read(_CHUNK):
            seen.take(chunk)
    return seen.facts()


def _without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe as well, instead of waiting for somebody who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _near(origin: str) -> Facts | Trouble:
    try:
        return read_file(Path(origin))
    except OSError as error:
        return error
    except ValueError:  # a path with a zero byte in it
        return OSError(errno.EINVAL, "it is no path", origin)


def _shares(origins: Sequence[str]) -> Iterator[Sequence[str]]:
    """Deals what is to be read out to a few readers."""
    for readers, far in ((_READERS["local"], False), (_READERS["remote"], True)):
        some = [origin for origin in origins if is_remote(origin) is far]
        for first in range(min(readers, len(some))):
            yield some[first::readers]
