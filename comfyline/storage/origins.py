"""Media inputs where they lie: a local path, `s3://…` or `https://…`, read once as a stream."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.storage.bucket import Bucket
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.known_files import KnownFiles, Stamp
from comfyline.storage.reading import Passing, look_at_file
from comfyline.storage.web import read_url

_READERS = {"local": 4, "remote": 16}
"""How many tasks share what is asked for at once."""
_EXAMINED_AT_ONCE = 4
"""Files opened at a time, wherever they come from: each may take a picture's worth of memory."""
_REMEMBERED_AT_A_TIME = 64


class Origins:
    """Reads media inputs, each address once a process; only errors are not remembered.

    `known_files` is where the facts of local files are kept for the next process, if anywhere.
    """

    def __init__(self, bucket: Bucket, known_files: Path | None = None) -> None:
        self._bucket = bucket
        self._remembered = KnownFiles(known_files)
        self._known: dict[str, Facts] = {}
        self._reading: dict[str, asyncio.Task[dict[str, Trouble]]] = {}
        self._examining = asyncio.Semaphore(_EXAMINED_AT_ONCE)

    async def facts(self, origin: str) -> Facts:
        """Hash, size, type and look of a media input.

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
        try:
            if is_remote(share[0]):
                for origin in share:
                    self._keep(origin, await self._far(origin), troubles)
            else:
                await self._read_local(share, troubles)
        finally:
            for origin in share:
                del self._reading[origin]
        return troubles

    async def _read_local(self, share: Sequence[str], troubles: dict[str, Trouble]) -> None:
        self._known |= await asyncio.to_thread(self._remembered.recall, share)
        new: dict[str, tuple[Stamp, Facts]] = {}
        for origin in share:
            if origin in self._known:
                continue
            async with self._examining:
                found, stamp = await asyncio.to_thread(look_at_file, origin)
            self._keep(origin, found, troubles)
            if stamp and isinstance(found, Facts):
                new[origin] = stamp, found
            if len(new) == _REMEMBERED_AT_A_TIME:
                await asyncio.to_thread(self._remembered.remember, dict(new))
                new.clear()
        await asyncio.to_thread(self._remembered.remember, new)

    def _keep(self, origin: str, found: Facts | Trouble, troubles: dict[str, Trouble]) -> None:
        if isinstance(found, Facts):
            self._known[origin] = found
        else:
            troubles[origin] = found

    async def _far(self, origin: str) -> Facts | Trouble:
        try:
            async with _passing() as passing:
                if origin.startswith("s3://"):
                    async with aclosing(self._bucket.read(origin)) as chunks:
                        async for chunk in chunks:
                            await asyncio.to_thread(passing.take, chunk)
                else:
                    await read_url(origin, passing.take)
                async with self._examining:
                    return await asyncio.to_thread(passing.facts)
        except (OSError, Unreachable) as error:
            return error


@asynccontextmanager
async def _passing() -> AsyncIterator[Passing]:
    passing = await asyncio.to_thread(Passing)
    try:
        yield passing
    finally:
        passing.close()


def is_remote(origin: str) -> bool:
    """Whether a media input lies elsewhere than on this machine's disk."""
    return origin.startswith(("s3://", "https://", "http://"))


def _shares(origins: Sequence[str]) -> Iterator[Sequence[str]]:
    """Deals what is to be read out to a few readers."""
    for readers, far in ((_READERS["local"], False), (_READERS["remote"], True)):
        some = [origin for origin in origins if is_remote(origin) is far]
        for first in range(min(readers, len(some))):
            yield some[first::readers]
