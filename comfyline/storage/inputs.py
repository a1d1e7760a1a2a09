"""Media inputs where they lie: a local path, `s3://…` or `https://…`, read once and whole."""

import asyncio
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import lru_cache
from io import BufferedRandom, BufferedReader
from pathlib import Path
from ssl import SSLContext

import httpx

from comfyline.errors import Unreachable
from comfyline.job import FileInfo, MediaInfo
from comfyline.media.probe import probe
from comfyline.media.types import HEAD_BYTES, MOST_BYTES, kind_of, media_type_of
from comfyline.redact import bare_origin
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.fingerprints import (
    KnownFiles,
    ReadError,
    file_fingerprint,
    fingerprints_of,
    is_settled,
    object_fingerprint,
)
from comfyline.storage.object_index import ObjectIndex
from comfyline.storage.place import Listed, local_path
from comfyline.storage.s3 import Bucket
from comfyline.storage.url_guard import UrlGuard

LARGEST = 256 * 2**20
"""Beyond this nothing else matters of a file, and it is not read. What RunComfy takes is smaller,
but of a picture that is too large a smaller copy may be submitted."""
_DOWNLOADS_AT_ONCE = 16
_OPENED_AT_ONCE = 4
"""Files opened at a time, wherever they come from: each may take a picture's worth of memory."""
_REMEMBERED_AT_A_TIME = 64
_CHUNK = 1024 * 1024
_TIMEOUT = httpx.Timeout(30, connect=10)
_SECONDS = 300
"""For one file from the web in all, however slowly it trickles in."""
_REDIRECTS = 3
OpenFile = BufferedReader | BufferedRandom
_GONE = {httpx.codes.NOT_FOUND, httpx.codes.GONE}
_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


class Inputs:
    """Reads media inputs, each address once a process; only errors are not remembered.

    `known_files` is where what they are is kept for the next process, if anywhere.
    With `private_hosts` an address on the web may lie in a private network: only a RunComfy that
    lies there itself, the sandbox, can fetch from it.
    """

    def __init__(
        self, bucket: Bucket, known_files: Path | None = None, *, private_hosts: bool = True
    ) -> None:
        self._bucket = bucket
        self._objects = ObjectIndex(bucket)
        self._memory = KnownFiles(known_files)
        self._private_hosts = private_hosts
        self._known: dict[str, FileInfo] = {}
        self._reading: dict[str, asyncio.Task[FileInfo | ReadError]] = {}
        self._new: dict[str, tuple[str, FileInfo]] = {}
        self._recalling = asyncio.Lock()
        self._downloads = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        self._opened = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def read(self, origin: str) -> FileInfo:
        """Return what a media input is.

        Raises `FileNotFoundError`, `OSError` for what cannot be read, or `Unreachable`.
        """
        found = self._known.get(address_of(origin)) or (await self.read_all([origin]))[origin]
        if isinstance(found, FileInfo):
            return found
        raise found

    def know(self, origin: str, info: FileInfo) -> None:
        """Take what a medium is from whoever has just made it, so that nobody reads it."""
        self._known[address_of(origin)] = info

    async def read_all(self, origins: Iterable[str]) -> dict[str, FileInfo | ReadError]:
        """Return of many media inputs what each is, or what is in the way. Raises nothing."""
        addresses = {one: address_of(one) for one in origins}
        async with self._recalling:
            asked = dict.fromkeys(addresses.values())
            # Held from here on: a reading that fails is forgotten when it ends.
            waiting = {one: self._reading[one] for one in asked if one in self._reading}
            new = [one for one in asked if one not in self._known and one not in waiting]
            before = await self._recall(new)
            for one in new:
                if one not in self._known:
                    reading = asyncio.create_task(self._read_once(one, before.get(one)))
                    waiting[one] = self._reading[one] = reading
        if waiting:
            # Not `gather`: who is cancelled must not cancel what others wait for as well.
            await asyncio.wait(waiting.values())
        await self._remember()
        found = {one: task.result() for one, task in waiting.items()}
        return {
            one: self._known[address] if address in self._known else found[address]
            for one, address in addresses.items()
        }

    @asynccontextmanager
    async def opened(self, origin: str) -> AsyncIterator[OpenFile]:
        """Open a media input, wherever it lies. Raises `OSError` or `Unreachable`.

        What lies elsewhere is put down for as long as the block takes, and no further than to what
        is too large. The copy has no name, so that it is gone with the process, however that ends.
        """
        if not is_remote(origin):
            with await asyncio.to_thread(open_file, origin_path(origin)) as file:
                yield file
            return
        with tempfile.TemporaryFile() as copy:
            if origin.startswith("s3://"):
                async with aclosing(self._bucket.read(origin)) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(_write, copy, chunk)
                        if copy.tell() > LARGEST:
                            break
            else:
                await download(origin, copy, private_hosts=self._private_hosts)
            copy.seek(0)
            yield copy

    async def _recall(self, new: Sequence[str]) -> dict[str, Listed]:
        """Recall what has not changed; return the objects of a bucket as they lie there now."""
        objects = [one for one in new if one.startswith("s3://")]
        found = await asyncio.gather(*map(self._find, objects))
        before = {one.uri: one for one in found if one}
        local = [one for one in new if not is_remote(one)]

        def recall() -> dict[str, FileInfo]:
            of_objects = {uri: object_fingerprint(one) for uri, one in before.items()}
            return self._memory.recall(fingerprints_of(local) | of_objects)

        self._known |= await asyncio.to_thread(recall)
        return before

    async def _find(self, uri: str) -> Listed | None:
        try:
            return await self._objects.find(uri)
        except Unreachable:
            return None  # Whoever reads the object is told why.

    async def _read_once(self, address: str, before: Listed | None) -> FileInfo | ReadError:
        try:
            if is_remote(address):
                async with self._downloads:
                    info, fingerprint = await self._read_far(address, before)
            else:
                async with self._opened:
                    info, fingerprint = await asyncio.to_thread(read_file, address)
        except (OSError, Unreachable) as error:
            return error
        finally:
            del self._reading[address]
        self._known[address] = info
        if fingerprint:
            self._new[address] = fingerprint, info
            if len(self._new) >= _REMEMBERED_AT_A_TIME:
                await self._remember()
        return info

    async def _remember(self) -> None:
        if self._new:
            new, self._new = self._new, {}
            await asyncio.to_thread(self._memory.remember, new)

    async def _read_far(self, address: str, before: Listed | None) -> tuple[FileInfo, str]:
        """Return what lies elsewhere, and its fingerprint if it stayed the same meanwhile."""
        if before and before.bytes > LARGEST:
            async with aclosing(self._bucket.read(address)) as chunks:
                return _too_large(await anext(chunks, b""), before.bytes), ""
        async with self.opened(address) as file, self._opened:
            info = await asyncio.to_thread(_info_of, file)
        if before and (fingerprint := object_fingerprint(before)):
            with suppress(Unreachable):
                now = await self._bucket.stat(address)
                if now and object_fingerprint(now) == fingerprint:
                    return info, fingerprint
        return info, ""


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


def open_file(path: Path) -> BufferedReader:
    """Open a local file. Raises `OSError`, also for what is no regular file. Blocks."""
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # closed by who asked
    except ValueError:
        raise OSError(errno.EINVAL, "it is not a path", str(path)) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_file(path: str) -> tuple[FileInfo, str]:
    """Read a local file. Raises `OSError`. Blocks.

    With a fingerprint when nothing has touched the file for a while: then it is known for as long
    as its fingerprint is the same.
    """
    began = time.time()
    with open_file(Path(path)) as file:
        before = os.fstat(file.fileno())
        info = _info_of(file)
        fingerprint = file_fingerprint(before)
        is_same = fingerprint == file_fingerprint(os.fstat(file.fileno()))
    return info, fingerprint if info.sha256 and is_same and is_settled(before, began) else ""


def _info_of(file: OpenFile) -> FileInfo:
    size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)
    if size > LARGEST:
        return _too_large(head, size)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size, media_type = file.tell(), media_type_of(head)
    kind = kind_of(media_type)
    is_opened = kind == "image" or (kind is not None and size <= MOST_BYTES[kind])
    return FileInfo(sha256, size, probe(file, media_type) if is_opened else MediaInfo(media_type))


def _too_large(head: bytes, size: int) -> FileInfo:
    return FileInfo("", size, MediaInfo(media_type_of(head[:HEAD_BYTES])))


def _without_waiting(path: str, flags: int) -> int:
    """Open a named pipe as well, instead of waiting for somebody who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _write(copy: BufferedRandom, chunk: bytes) -> None:
    try:
        copy.write(chunk)
    except OSError as error:
        message = f"a copy cannot be kept in {tempfile.gettempdir()}: {error.strerror}"
        raise Unreachable(message, hint="Set TMPDIR to a folder with free space.") from error


async def download(url: str, copy: BufferedRandom, *, private_hosts: bool = False) -> None:
    """Write what is behind an address to a file, as RunComfy will read it: without login.

    An endless answer ends a little beyond what is too large.
    An address may carry a permission in its query, so no message shows more than its path; and it
    may come from anybody, so that no redirect leads into the private network of this machine. With
    `private_hosts` the address itself may be one of this machine or its network. Raises
    `FileNotFoundError`, or `Unreachable` for everything else that is in the way.
    """
    shown = bare_origin(url)
    guard = UrlGuard(shown, private_hosts=private_hosts)
    client = httpx.AsyncClient(
        timeout=_TIMEOUT,
        follow_redirects=True,
        max_redirects=_REDIRECTS,
        verify=certificates(),
        event_hooks={"request": [guard.enter]},
    )
    try:
        async with asyncio.timeout(_SECONDS), client, client.stream("GET", url) as answer:
            _check(answer, shown)
            async for chunk in answer.aiter_bytes(_CHUNK):
                await asyncio.to_thread(_write, copy, chunk)
                if copy.tell() > LARGEST:
                    break
    except FileNotFoundError:
        raise
    except httpx.TooManyRedirects:
        raise Unreachable(f"{shown} is redirected more than {_REDIRECTS} times") from None
    except (httpx.TimeoutException, TimeoutError):
        raise Unreachable(f"{shown} does not answer in time") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
        raise Unreachable(f"{shown} is not a valid address") from None
    except (httpx.HTTPError, OSError) as error:
        raise Unreachable(f"{shown} cannot be read: {what_broke(error)}") from None


@lru_cache(maxsize=1)
def certificates() -> SSLContext:
    """Load the authorities that everybody trusts, once: it takes longer than many a download."""
    return httpx.create_ssl_context()


def _check(answer: httpx.Response, shown: str) -> None:
    code = answer.status_code
    if code in _GONE:
        raise FileNotFoundError(f"{shown} answers HTTP {code}")
    if code in _REFUSED:
        raise Unreachable(
            f"{shown} is not public (HTTP {code})",
            hint="RunComfy cannot log in there. Use a presigned address or a local file.",
        )
    if code != httpx.codes.OK:
        raise Unreachable(f"{shown} answers HTTP {code}")
    if answer.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xht")):
        raise Unreachable(
            f"{shown} answers with a web page, not with a file",
            hint="It may require a login. Use the address of the file itself.",
        )
