"""Media inputs where they lie: a local path, `s3://…` or `https://…`, read once as a stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from comfyline.errors import Unreachable
from comfyline.storage.file_info import FileInfo, ReadError
from comfyline.storage.known_files import KnownFiles, Stamp
from comfyline.storage.place import Listed, all_of, local_path
from comfyline.storage.reading import LARGEST, Passing, look_at_file, too_large
from comfyline.storage.remote_stamps import RemoteStamp, look_up, stamp_of
from comfyline.storage.s3 import Bucket
from comfyline.storage.web import read_url

_READERS = {"local": 4, "remote": 16}
"""How many tasks share what is asked for at once."""
_EXAMINED_AT_ONCE = 4
"""Files opened at a time, wherever they come from: each may take a picture's worth of memory."""
_REMEMBERED_AT_A_TIME = 64

_Troubles = dict[str, ReadError]
_Read = Callable[[Sequence[str], _Troubles], Awaitable[None]]


class Origins:
    """Reads media inputs, each address once a process; only errors are not remembered.

    `known_files` is where the facts of files and objects are kept for the next process, if
    anywhere. With `private_hosts` an address on the web may lie in a private network: only a
    RunComfy that lies there itself, the sandbox, can fetch from it.
    """

    def __init__(
        self, bucket: Bucket, known_files: Path | None = None, *, private_hosts: bool = True
    ) -> None:
        self._bucket = bucket
        self._remembered = KnownFiles(known_files)
        self._private_hosts = private_hosts
        self._known: dict[str, FileInfo] = {}
        self._reading: dict[str, asyncio.Task[_Troubles]] = {}
        self._examining = asyncio.Semaphore(_EXAMINED_AT_ONCE)

    async def facts(self, origin: str) -> FileInfo:
        """Hash, size, type and look of a media input.

        Raises `FileNotFoundError`, `OSError` for what cannot be read, or `Unreachable`.
        """
        found = self._known.get(address_of(origin)) or (await self.look([origin]))[origin]
        if isinstance(found, FileInfo):
            return found
        raise found

    def know(self, origin: str, facts: FileInfo) -> None:
        """Take the facts of a medium from whoever has just made it, so that nobody reads it."""
        self._known[address_of(origin)] = facts

    async def look(self, origins: Iterable[str]) -> dict[str, FileInfo | ReadError]:
        """Read many media inputs: the facts of each, or what is in the way. Raises nothing."""
        addresses = {one: address_of(one) for one in origins}
        asked = list(dict.fromkeys(addresses.values()))
        unknown = [one for one in asked if one not in self._known and one not in self._reading]
        for share, read in self._dealt_out(unknown):
            task = asyncio.create_task(self._read(share, read))
            self._reading.update(dict.fromkeys(share, task))
        troubles: _Troubles = {}
        if waiting := {self._reading[one] for one in asked if one in self._reading}:
            # Not `gather`: who is cancelled must not cancel what others wait for as well.
            await asyncio.wait(waiting)
            for task in waiting:
                troubles |= task.result()
        return {
            one: self._known[address] if address in self._known else troubles[address]
            for one, address in addresses.items()
        }

    async def pour(self, origin: str, take: Callable[[bytes], None]) -> None:
        """Give the bytes of what lies elsewhere to `take`, a piece at a time and in a thread.

        Raises `FileNotFoundError`, or `Unreachable` for everything else that is in the way.
        """
        if not origin.startswith("s3://"):
            await read_url(origin, take, private_hosts=self._private_hosts)
            return
        async with aclosing(self._bucket.read(origin)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(take, chunk)

    def _dealt_out(self, origins: Sequence[str]) -> Iterator[tuple[Sequence[str], _Read]]:
        """Deal out what is to be read to a few readers."""
        objects = [one for one in origins if one.startswith("s3://")]
        if objects:
            yield objects, self._read_objects
        local = [one for one in origins if not is_remote(one)]
        for share in _shares(local, _READERS["local"]):
            yield share, self._read_local
        web = [one for one in origins if is_remote(one) and not one.startswith("s3://")]
        for share in _shares(web, _READERS["remote"]):
            yield share, self._read_web

    async def _read(self, share: Sequence[str], read: _Read) -> _Troubles:
        troubles: _Troubles = {}
        try:
            await read(share, troubles)
        finally:
            for origin in share:
                del self._reading[origin]
        return troubles

    async def _read_local(self, share: Sequence[str], troubles: _Troubles) -> None:
        self._known |= await asyncio.to_thread(self._remembered.recall, share)
        new: dict[str, tuple[Stamp | RemoteStamp, FileInfo]] = {}
        for origin in share:
            if origin in self._known:
                continue
            async with self._examining:
                found, stamp = await asyncio.to_thread(look_at_file, origin)
            self._keep(origin, found, troubles)
            if stamp and isinstance(found, FileInfo):
                await self._remember(new, origin, stamp, found)
        await asyncio.to_thread(self._remembered.remember, new)

    async def _read_objects(self, share: Sequence[str], troubles: _Troubles) -> None:
        listed = await look_up(self._bucket, share)
        stamps = {uri: stamp for uri, one in listed.items() if (stamp := stamp_of(one))}
        self._known |= await asyncio.to_thread(self._remembered.recall_objects, stamps)
        left = [uri for uri in share if uri not in self._known]
        await all_of(
            self._read_some_objects(some, listed, troubles)
            for some in _shares(left, _READERS["remote"])
        )

    async def _read_some_objects(
        self, share: Sequence[str], listed: dict[str, Listed], troubles: _Troubles
    ) -> None:
        new: dict[str, tuple[Stamp | RemoteStamp, FileInfo]] = {}
        for uri in share:
            before = listed.get(uri)
            found = await self._far(uri, before.bytes if before else 0)
            self._keep(uri, found, troubles)
            stamp = stamp_of(before) if before else None
            if stamp and isinstance(found, FileInfo) and await self._is_still(uri, stamp):
                await self._remember(new, uri, stamp, found)
        await asyncio.to_thread(self._remembered.remember, new)

    async def _read_web(self, share: Sequence[str], troubles: _Troubles) -> None:
        for url in share:
            self._keep(url, await self._far(url), troubles)

    async def _is_still(self, uri: str, stamp: RemoteStamp) -> bool:
        """Tell whether an object that was read is the one that was looked up before."""
        try:
            now = await self._bucket.stamp(uri)
        except Unreachable:
            return False
        return now is not None and stamp_of(now) == stamp

    async def _remember(
        self,
        new: dict[str, tuple[Stamp | RemoteStamp, FileInfo]],
        origin: str,
        stamp: Stamp | RemoteStamp,
        facts: FileInfo,
    ) -> None:
        new[origin] = stamp, facts
        if len(new) == _REMEMBERED_AT_A_TIME:
            await asyncio.to_thread(self._remembered.remember, dict(new))
            new.clear()

    def _keep(self, origin: str, found: FileInfo | ReadError, troubles: _Troubles) -> None:
        if isinstance(found, FileInfo):
            self._known[origin] = found
        else:
            troubles[origin] = found

    async def _far(self, origin: str, size: int = 0) -> FileInfo | ReadError:
        """Read what lies elsewhere; of what is said to be too large, only the beginning."""
        try:
            if size > LARGEST:
                async with aclosing(self._bucket.read(origin)) as chunks:
                    return too_large(await anext(chunks, b""), size)
            async with _passing() as passing:
                await self.pour(origin, passing.take)
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
    """Tell whether a media input lies elsewhere than on this machine's disk."""
    return origin.startswith(("s3://", "https://", "http://"))


def is_presigned(origin: str) -> bool:
    """Tell whether RunComfy gets a media input by a presigned URL: of a file or an object."""
    return not is_remote(origin) or origin.startswith("s3://")


def origin_path(origin: str) -> Path:
    """Return the file behind a local media input, a path or a `file://` URI."""
    return Path(address_of(origin))


def address_of(origin: str) -> str:
    """Return an origin as it is remembered: a `file://` URI is the path that it names."""
    if not origin.startswith("file://"):
        return origin
    try:
        return str(local_path(origin))
    except ValueError:
        return origin


def _shares(origins: Sequence[str], readers: int) -> Iterator[Sequence[str]]:
    for first in range(min(readers, len(origins))):
        yield origins[first::readers]
