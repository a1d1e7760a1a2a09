"""Outputs from RunComfy's hosts: no token, streamed to disk, whole or not at all.

After a break a download goes on where it stopped, when the server proves that it is still the same
file; otherwise it starts over.
"""

import asyncio
import hashlib
import re
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import httpx

from comfyline.broken_connections import what_broke
from comfyline.config.account import command
from comfyline.errors import BrokenOutput, DiskFull, OutputUnreachable
from comfyline.files import disk_full_told, require_space
from comfyline.job import MediaInfo
from comfyline.runcomfy.allowed_hosts import AllowedHosts, OutputUrl, RefusedOutput
from comfyline.runcomfy.background_writer import BackgroundWriter
from comfyline.runcomfy.data_uris import EmbeddedUri, decode_data_uri
from comfyline.runcomfy.retry import Sleep, backoff
from comfyline.runcomfy.transport import proxy_for
from comfyline.storage.url_guard import is_public

_NOTHING = MediaInfo("")
_AT_A_TIME = 16
_TRIES = 5
_CHECKS = 2
"""How often an output is fetched that turns out to be none once it is there."""
_MOST_HOPS = 3
_MOST_BYTES = 2 * 1024**3
"""Where RunComfy's own command line stops."""
_HEAD_BYTES = 4096
"""How much has to be there before an output is judged by its beginning."""
_GRACE = 300.0
_SLOWEST = 16 * 1024
"""Bytes a second, on average, which an output has to come at once the grace is over."""
_PROGRESS = 1024 * 1024
"""A try that brought so much more counts as the first one again."""
_HEAD_SECONDS = 120.0
"""For the answer to begin, however slowly its head trickles in."""

# The read timeout is an idle timeout: a big file may take long, silence may not.
_TIMEOUT = httpx.Timeout(60, connect=10, pool=None).as_dict()
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=_AT_A_TIME)
_HEADERS = {
    # An output that came compressed could not be compared with the length it promises.
    "Accept-Encoding": "identity",
    "Accept": "*/*",
    "User-Agent": "comfyline",
}
_MOVED = {301, 302, 303, 307, 308}
_PASSING_STATUS = {404, 408, 425, 429}
"""4xx answers that may change: 404 because an output may be published a moment late."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_ANY_GZIP = zlib.MAX_WBITS | 32


@dataclass(frozen=True, slots=True)
class Download:
    """A file that arrived whole, with what it shows if that was looked at."""

    sha256: str
    bytes: int
    info: MediaInfo = _NOTHING


class OutputCheck(Protocol):
    """What a file has to be. Both raise `BrokenOutput`; the second one may take its time."""

    def begins(self, head: bytes) -> None:
        """Refuse a file by its beginning, before the rest of it has come."""

    def whole(self, path: Path) -> MediaInfo:
        """Probe a file, which has to be what was expected."""


class _Unchecked:
    def begins(self, head: bytes) -> None:
        """Take everything."""

    def whole(self, path: Path) -> MediaInfo:  # noqa: ARG002  # as it is called
        """Check nothing."""
        return _NOTHING


class _Spoilt(BrokenOutput):
    """What arrived so far is worth nothing: the next try starts over."""


class _TooSlow(OutputUnreachable):
    """Asking again at once would only take as long again."""


class Downloads:
    """Connections without credentials; used as an async context manager.

    `hosts` are the patterns that outputs may come from; the origin of `base_url` is one as well.
    `most_bytes` is the size from which on a file is refused; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        base_url: str,
        *,
        most_bytes: int = _MOST_BYTES,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = AllowedHosts(hosts, base_url)
        self._most_bytes = most_bytes
        self._sleep = sleep
        self._clock = clock
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._connections = _Connections()

    async def __aenter__(self) -> Self:
        """Open nothing by itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._connections.close()

    async def save(
        self, output: str | EmbeddedUri, target: Path, check: OutputCheck | None = None
    ) -> Download:
        """Put one output under `target`, which exists only when it is whole and checked.

        Raises `BrokenOutput` for a host that is not allowed, and for a body that stays not what
        it has to be; `DiskFull`; `OutputUnreachable` when its server does not answer, breaks off or
        is too slow. No error shows a URL's query.
        """
        part, check = target.with_name(f"{target.name}.part"), check or _Unchecked()
        with disk_full_told(part):
            if isinstance(output, EmbeddedUri) or output[:5].lower() == "data:":
                download = await asyncio.to_thread(self._decode, output, part, check)
            else:
                url = self._hosts.check(output)
                async with self._turns:
                    download = await self._fetch(url, part, check)
        await asyncio.to_thread(part.replace, target)
        return download

    def _decode(self, uri: str | EmbeddedUri, part: Path, check: OutputCheck) -> Download:
        with _Partial("An output's data: URI", part, self._most_bytes) as partial:
            try:
                for piece in decode_data_uri(uri):
                    partial.write(piece)
            except ValueError:
                raise RefusedOutput("An output's data: URI is not valid base64") from None
            try:
                partial.finish()
            except _Spoilt as spoilt:
                raise RefusedOutput(spoilt.message) from None
            check.begins(partial.head)
            return Download(partial.sha256, partial.size, check.whole(part))

    async def _fetch(self, url: OutputUrl, part: Path, check: OutputCheck) -> Download:
        began, failed, checked = self._clock(), 0, 0
        with _Partial(url.shown, part, self._most_bytes) as partial:
            while True:
                before = partial.size
                try:
                    await self._stream(url, partial, check, began)
                    checked += 1
                    with _spoilt_if_broken():
                        info = await asyncio.to_thread(check.whole, part)
                    return Download(partial.sha256, partial.size, info)
                except (RefusedOutput, _TooSlow, DiskFull):
                    raise
                except BrokenOutput as broken:
                    error = broken
                # A server that breaks off again and again brings a large file all the same.
                failed = 1 if partial.size >= before + _PROGRESS else failed + 1
                if failed >= _TRIES or checked >= _CHECKS:
                    raise error
                if isinstance(error, _Spoilt):
                    await asyncio.to_thread(partial.start_over)
                await self._sleep(backoff(failed - 1))

    async def _stream(
        self, url: OutputUrl, partial: "_Partial", check: OutputCheck, began: float
    ) -> None:
        try:
            async with self._answer(url, partial.missing()) as answer:
                _check_status(url.shown, answer.status_code)
                await asyncio.to_thread(partial.begin, answer.status_code, answer.headers)
                await self._read(answer, url.shown, partial, check, began)
        except (httpx.HTTPError, TimeoutError, ConnectionError) as error:
            so_far = f" after {partial.progress}" if partial.has_begun else ""
            raise OutputUnreachable(
                f"{url.shown} cannot be fetched: {what_broke(error)}{so_far}", hint=_later()
            ) from None

    @asynccontextmanager
    async def _answer(
        self, url: OutputUrl, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Give the beginning of the answer, from wherever redirects lead."""
        for _ in range(_MOST_HOPS + 1):
            answer = await self._connections.get(url, headers)
            try:
                location = answer.headers.get("Location", "")
                if answer.status_code not in _MOVED or not location:
                    yield answer
                    return
            finally:
                await answer.aclose()
            url = self._hosts.check_redirect(url, location)
        raise RefusedOutput(f"{url.shown} is one of more than {_MOST_HOPS} redirects")

    async def _read(
        self,
        answer: httpx.Response,
        shown: str,
        partial: "_Partial",
        check: OutputCheck,
        began: float,
    ) -> None:
        judged, received = len(partial.head) >= _HEAD_BYTES, partial.size
        async with BackgroundWriter(partial.take) as writer:
            async for piece in answer.aiter_raw():
                await writer.write(piece)
                if not judged:
                    # Not waited for: what a broken connection leaves unread is lost.
                    await writer.hand_over()
                    if judged := len(partial.head) >= _HEAD_BYTES:
                        with _spoilt_if_broken():
                            check.begins(partial.head)
                received += len(piece)
                seconds = self._clock() - began
                if seconds > _GRACE + received / _SLOWEST:
                    raise _TooSlow(
                        f"{shown} comes too slowly: {received} bytes in {seconds:.0f} s",
                        hint=_later(),
                    )
        await asyncio.to_thread(partial.finish)
        if not judged:
            with _spoilt_if_broken():
                check.begins(partial.head)


class _Connections:
    """One pool for each way out, without cookies and without redirects.

    Used below `httpx.AsyncClient`, which would keep cookies and log URLs with their queries. A
    proxy of the environment is used for hosts that the profile does not name: where there is one it
    is the only way out, and TLS alone proves who answered.
    """

    def __init__(self) -> None:
        self._pools: dict[tuple[str | None, str], httpx.AsyncHTTPTransport] = {}
        self._opening = asyncio.Lock()

    async def get(self, url: OutputUrl, headers: Mapping[str, str]) -> httpx.Response:
        """Return the beginning of an answer, whatever its status; its body is as it was sent.

        Raises `httpx.HTTPError` or `TimeoutError`, and `RefusedOutput` where the host leads into a
        private network.
        """
        proxy = None if url.is_named else proxy_for(url.url)
        if proxy and not proxy.startswith("http"):
            proxy = None
        extensions: dict[str, Any] = {"timeout": _TIMEOUT}
        if not url.is_named:
            await _refuse_private(url)
            if proxy is None:
                extensions["trace"] = _guard(url)
        pool = await self._pool(proxy, url.url.scheme)
        request = httpx.Request(
            "GET", url.url, headers={**_HEADERS, **headers}, extensions=extensions
        )
        async with asyncio.timeout(_HEAD_SECONDS):
            return await pool.handle_async_request(request)

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    async def _pool(self, proxy: str | None, scheme: str) -> httpx.AsyncHTTPTransport:
        async with self._opening:
            if (proxy, scheme) not in self._pools:
                # Reading the authorities takes a tenth of a second, so only where needed.
                is_secure = "https" in {scheme, (proxy or "").partition(":")[0]}
                trust = (
                    await asyncio.to_thread(httpx.create_ssl_context)
                    if is_secure
                    else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                )
                self._pools[proxy, scheme] = httpx.AsyncHTTPTransport(
                    verify=trust, limits=_LIMITS, proxy=proxy
                )
        return self._pools[proxy, scheme]


async def _refuse_private(url: OutputUrl) -> None:
    loop = asyncio.get_running_loop()
    host = url.url.raw_host.decode("ascii")
    with suppress(OSError):  # Behind a proxy names often resolve nowhere else.
        for info in await loop.getaddrinfo(host, url.url.port, type=socket.SOCK_STREAM):
            if not is_public(str(info[4][0])):
                raise _leads_inside(url)


def _guard(url: OutputUrl) -> Callable[[str, dict[str, Any]], Awaitable[None]]:
    """Judge the address that was really connected to, before anything is sent there.

    A name may lead elsewhere from one moment to the next (DNS rebinding).
    """

    async def connected(event: str, told: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            stream = told["return_value"]
            if not is_public(str(stream.get_extra_info("server_addr")[0])):
                await stream.aclose()
                raise _leads_inside(url)

    return connected


def _leads_inside(url: OutputUrl) -> RefusedOutput:
    return RefusedOutput(
        f"{url.shown} leads to an address of a private network, where no output is fetched",
        hint="If it is meant to be there, name the host in runcomfy.download_hosts, without `*`.",
    )


class _Partial:
    """The file that an output grows in, its digest so far, and what was promised of it.

    Used as a context manager, which removes the file unless all went well. Blocking where files are
    touched.
    """

    def __init__(self, shown: str, path: Path, most_bytes: int) -> None:
        self._shown = shown
        self._path = path
        self._most_bytes = most_bytes
        self._file: IO[bytes] | None = None
        self._promised: int | None = None
        self._unpack: zlib._Decompress | None = None
        self._forget()

    def __enter__(self) -> Self:
        """Open nothing before the first bytes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; remove it unless all went well."""
        if self._file:
            self._file.close()
        if kind:
            self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The digest of what has arrived."""
        return self._digest.hexdigest()

    @property
    def has_begun(self) -> bool:
        """Whether anything of it has come, or was promised."""
        return bool(self.size or self._promised)

    @property
    def progress(self) -> str:
        """How much has arrived, of how much where that was promised."""
        of = "" if self._promised is None else f" of {self._promised:,}"
        return f"{self.size:,}{of} bytes"

    def missing(self) -> dict[str, str]:
        """Return the headers that ask for what is missing; none when it has to be the whole."""
        self._asked_for_rest = bool(self.size and self._validator)
        if not self._asked_for_rest:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Read the head of an answer with HTTP 200 or 206.

        Raises `_Spoilt` for a part that does not fit what is there, `RefusedOutput` for a promise
        beyond the limit, `DiskFull` for one that there is no room for.
        """
        if status == HTTPStatus.PARTIAL_CONTENT:
            self._go_on(headers)
            return
        self.start_over()
        length = headers.get("Content-Length", "")
        packed = headers.get("Content-Encoding", "identity").strip().lower()
        if packed in {"gzip", "x-gzip", "deflate"}:
            self._unpack = zlib.decompressobj(_ANY_GZIP)
            return
        if packed not in {"identity", ""}:
            raise _Spoilt(f"{self._shown} comes packed as {packed[:20]!r}")
        if length.isdecimal():
            self._promised = int(length)
            if self._promised > self._most_bytes:
                raise self._too_large()
            require_space(self._path.parent, self._promised)
        # A weak tag does not vouch for single bytes (RFC 9110, 13.1.5).
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")

    def take(self, piece: bytes) -> None:
        """Write the next bytes of the answer. Raise as `begin` does."""
        for chunk in self._unpacked(piece):
            self.write(chunk)

    def write(self, chunk: bytes) -> None:
        """Write and digest the next bytes of the file."""
        self.size += len(chunk)
        if self.size > self._most_bytes:
            raise self._too_large()
        if len(self.head) < _HEAD_BYTES:
            self.head += chunk[: _HEAD_BYTES - len(self.head)]
        self._digest.update(chunk)
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(chunk)

    def finish(self) -> None:
        """Check that all that was promised is there. Raise `_Spoilt`."""
        if self._promised is not None and self.size != self._promised:
            raise _Spoilt(f"{self._shown} sent {self.progress}")
        if self._unpack and not self._unpack.eof:
            raise _Spoilt(f"{self._shown} is packed and cut short")
        if not self.size or self._file is None:
            raise _Spoilt(f"{self._shown} is empty")
        self._file.flush()

    def start_over(self) -> None:
        """Forget what has arrived."""
        if self._file:
            self._file.seek(0)
            self._file.truncate()
        self._forget()

    def _forget(self) -> None:
        self.size, self.head = 0, b""
        self._digest = hashlib.sha256()
        self._promised = self._unpack = None
        # What proves to the server that the rest belongs to what is here.
        self._validator = ""
        self._asked_for_rest = False

    def _go_on(self, headers: Mapping[str, str]) -> None:
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        fits = first == self.size and last + 1 == total and self._promised in {None, total}
        mark = "ETag" if self._validator.startswith('"') else "Last-Modified"
        same = headers.get(mark, self._validator) == self._validator
        if not (self._asked_for_rest and fits and same) or "Content-Encoding" in headers:
            raise _Spoilt(f"{self._shown} sent a part that was not asked for")
        self._promised = total

    def _unpacked(self, piece: bytes) -> Iterator[bytes]:
        if self._unpack is None:
            yield piece
            return
        while piece and not self._unpack.eof:
            try:
                # A few bytes may promise terabytes: never more than a piece of it at a time.
                chunk = self._unpack.decompress(piece, _PROGRESS)
            except zlib.error:
                raise _Spoilt(f"{self._shown} is packed and cannot be unpacked") from None
            piece = self._unpack.unconsumed_tail
            if chunk:
                yield chunk

    def _too_large(self) -> RefusedOutput:
        return RefusedOutput(f"{self._shown} is larger than {self._most_bytes} bytes")


@contextmanager
def _spoilt_if_broken() -> Iterator[None]:
    """Turn what is no output into an error of which nothing is kept."""
    try:
        yield
    except BrokenOutput as broken:
        raise _Spoilt(broken.message, hint=broken.hint) from None


def _check_status(shown: str, status: int) -> None:
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        return
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise _Spoilt(f"{shown} has become another file")
    passes = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS
    raise (BrokenOutput if passes else RefusedOutput)(f"{shown} answers HTTP {status}")


def _later() -> str:
    again = f"run again or {command('reconcile')}, which costs nothing"
    return f"It was paid for and stays at RunComfy for 7 days: {again}."
