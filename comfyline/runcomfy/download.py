"""Outputs from RunComfy's hosts: no token, streamed to disk, whole or not at all.

After a break a download goes on where it stopped, when the server proves that it is still the same
file; otherwise it starts over.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_to_bytes

import httpx

from comfyline.config.account import command
from comfyline.errors import BrokenOutput, OutputUnreachable
from comfyline.files import disk_full_told, require_space
from comfyline.job import FileInfo, MediaKind
from comfyline.media.probe import check_beginning, check_whole
from comfyline.media.types import HEAD_BYTES
from comfyline.runcomfy.allowed_hosts import AllowedHosts, OutputUrl, RefusedOutput
from comfyline.runcomfy.retry import Sleep, backoff, repeat
from comfyline.runcomfy.transport import ENCODINGS, Connections
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.url_guard import is_public, on_connect, resolve

_AT_A_TIME = 16
_TRIES = 5
_MOST_HOPS = 3
_MOST_BYTES = 2 * 1024**3
"""Where RunComfy's own command line stops."""
_PROGRESS = 1024 * 1024
"""A try that brought so much more counts as the first one again."""
_CHUNK = 256 * 1024
"""Bytes that are written at once; by the first ones an output is judged."""
CHUNK_SECONDS = 60.0
"""For so many bytes to come in, however slowly they trickle."""
_HEAD_SECONDS = 120.0
"""For the answer to begin, however slowly its head trickles in."""

# The read timeout is an idle timeout: a big file may take long, silence may not.
_TIMEOUT = httpx.Timeout(60, connect=10, pool=None).as_dict()
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


class _Spoilt(BrokenOutput):
    """What arrived so far is worth nothing: the next try starts over."""


class Downloads:
    """Connections without credentials; used as an async context manager.

    `hosts` are the patterns that outputs may come from; the origin of `base_url` is one as well.
    `most_bytes` is the size from which on a file is refused.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        base_url: str,
        *,
        most_bytes: int = _MOST_BYTES,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._hosts = AllowedHosts(hosts, base_url)
        self._most_bytes = most_bytes
        self._sleep = sleep
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._connections = Connections()

    async def __aenter__(self) -> Self:
        """Open nothing by itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._connections.aclose()

    async def save(
        self, output: str, target: Path, kind: MediaKind | None, *, svg: bool = False
    ) -> FileInfo:
        """Put one output under `target`, which exists only when it is a whole medium of `kind`.

        `output` is a URL or a `data:` URI; `svg`: a drawing counts as a picture. Raises
        `BrokenOutput` for a host that is not allowed, and for a body that stays not what it has to
        be; `DiskFull`; `OutputUnreachable` when its server does not answer, breaks off or is too
        slow. No error shows a URL's query.
        """
        part = target.with_name(f"{target.name}.part")
        with disk_full_told(part):
            if output[:5].lower() == "data:":
                file = _PartFile("An output's data: URI", part, self._most_bytes, kind, svg=svg)
                download = await asyncio.to_thread(_decode, output, file)
            else:
                url = self._hosts.check(output)
                file = _PartFile(url.shown, part, self._most_bytes, kind, svg=svg)
                async with self._turns:
                    download = await self._fetch(url, file)
        await asyncio.to_thread(part.replace, target)
        return download

    async def _fetch(self, url: OutputUrl, file: "_PartFile") -> FileInfo:
        failed = most = 0
        with file:

            async def once() -> FileInfo:
                nonlocal failed, most
                try:
                    await self._stream(url, file)
                    return await asyncio.to_thread(file.check)
                except _Spoilt:
                    await asyncio.to_thread(file.start_over)
                    raise
                finally:
                    # A server that breaks off again and again brings a large file all the same,
                    # unless it never brings more than before.
                    failed = 1 if file.size >= most + _PROGRESS else failed + 1
                    most = max(most, file.size)

            def is_worth_it(error: BaseException) -> bool:
                return isinstance(error, BrokenOutput) and error.passing and failed < _TRIES

            return await repeat(once, is_worth_it, lambda _: backoff(failed - 1), sleep=self._sleep)

    async def _stream(self, url: OutputUrl, file: "_PartFile") -> None:
        try:
            async with aclosing(await self._answer(url, file.missing())) as answer:
                _check_status(url.shown, answer.status_code)
                await asyncio.to_thread(file.begin, answer.status_code, answer.headers)
                chunks = answer.aiter_bytes(_CHUNK)
                while chunk := await _next(chunks):
                    await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(file.finish)
        except httpx.DecodingError:
            raise _Spoilt(f"{url.shown} is compressed and cannot be decompressed") from None
        except (httpx.HTTPError, TimeoutError, ConnectionError) as error:
            so_far = f" after {file.progress}" if file.has_begun else ""
            raise OutputUnreachable(
                f"{url.shown} cannot be fetched: {what_broke(error)}{so_far}", hint=_later()
            ) from None

    async def _answer(self, url: OutputUrl, headers: Mapping[str, str]) -> httpx.Response:
        """Return the beginning of the answer, from wherever redirects lead."""
        for _ in range(_MOST_HOPS + 1):
            answer = await self._get(url, headers)
            location = answer.headers.get("Location", "")
            if answer.status_code not in _MOVED or not location:
                return answer
            await answer.aclose()
            url = self._hosts.check_redirect(url, location)
        raise RefusedOutput(f"{url.shown} is redirected more than {_MOST_HOPS} times")

    async def _get(self, url: OutputUrl, headers: Mapping[str, str]) -> httpx.Response:
        """Return the beginning of an answer, whatever its status.

        A proxy is used for hosts that the profile does not name: where there is one it is the only
        way out, and TLS alone proves who answered. Raises `RefusedOutput` where the host leads into
        a private network.
        """
        extensions: dict[str, Any] = {"timeout": _TIMEOUT}
        if not url.is_named:
            host, refuse = url.url.raw_host.decode("ascii"), partial(_refuse_private, url)
            for address in await resolve(host, url.url.port):
                refuse(address)
            extensions["trace"] = on_connect(host, refuse)
        request = httpx.Request(
            "GET", url.url, headers={**_HEADERS, **headers}, extensions=extensions
        )
        async with asyncio.timeout(_HEAD_SECONDS):
            return await self._connections.send(request, direct=url.is_named)


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(CHUNK_SECONDS):
        return await anext(chunks, b"")


def _decode(uri: str, file: "_PartFile") -> FileInfo:
    """Write what a `data:` URI holds."""
    head, _, body = uri.partition(",")
    is_base64 = head.lower().rstrip().endswith(";base64")
    with file:
        try:
            # Blanks in it are allowed by the URL standard.
            content = (
                base64.b64decode("".join(body.split()), validate=True)
                if is_base64
                else unquote_to_bytes(body)
            )
        except ValueError:
            raise RefusedOutput("An output's data: URI is not valid base64") from None
        if content:
            file.write(content)
        file.finish()
        return file.check()


def _refuse_private(url: OutputUrl, address: str) -> None:
    if not is_public(address):
        raise RefusedOutput(
            f"{url.shown} leads to a private network, from which no output is fetched",
            hint="If that is intended, name the host in runcomfy.download_hosts, without `*`.",
        )


class _PartFile:
    """The file that an output grows in, its digest so far, and what was promised of it.

    Used as a context manager, which opens it, and removes it unless all went well. Blocking.
    """

    _promised: int | None

    def __init__(
        self, shown: str, path: Path, most_bytes: int, kind: MediaKind | None, *, svg: bool
    ) -> None:
        self._shown = shown
        self._path = path
        self._most_bytes = most_bytes
        self._kind = kind
        self._svg = svg
        self._forget()

    def __enter__(self) -> Self:
        """Open the file."""
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the file; remove it unless all went well."""
        try:
            # Raises on a full disk, where its last bytes cannot be written.
            self._file.close()
        finally:
            if kind:
                self._path.unlink(missing_ok=True)

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
        if not (self.size and self._validator):
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
        if headers.get("Content-Encoding", "").strip().lower() in ENCODINGS:
            # Neither length nor tag are those of what it unpacks to.
            return
        length = headers.get("Content-Length", "")
        if length.isdecimal():
            self._promised = int(length)
            if self._promised > self._most_bytes:
                raise self._too_large()
            require_space(self._path.parent, self._promised)
        # A weak tag does not vouch for single bytes (RFC 9110, 13.1.5).
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")

    def write(self, chunk: bytes) -> None:
        """Write and digest the next bytes of the file. Raise as `begin` does."""
        if not self.size:
            with _spoilt_if_broken():
                check_beginning(chunk[:HEAD_BYTES], self._kind, svg=self._svg)
        self.size += len(chunk)
        if self.size > self._most_bytes:
            raise self._too_large()
        self._digest.update(chunk)
        self._file.write(chunk)

    def finish(self) -> None:
        """Check that all that was promised is there. Raise `_Spoilt`."""
        if self._promised is not None and self.size != self._promised:
            raise _Spoilt(f"{self._shown} sent {self.progress}")
        if not self.size:
            raise _Spoilt(f"{self._shown} is empty")
        self._file.flush()

    def check(self) -> FileInfo:
        """Look at the file as a whole. Raise `_Spoilt` for one that is not what it has to be."""
        with _spoilt_if_broken():
            info = check_whole(self._path, self._kind, svg=self._svg)
        return FileInfo(self._digest.hexdigest(), self.size, info)

    def start_over(self) -> None:
        """Forget what has arrived."""
        self._file.seek(0)
        self._file.truncate()
        self._forget()

    def _forget(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._promised = None
        # What proves to the server that the rest belongs to what is here.
        self._validator = ""

    def _go_on(self, headers: Mapping[str, str]) -> None:
        found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        fits = first == self.size and last + 1 == total and self._promised in {None, total}
        mark = "ETag" if self._validator.startswith('"') else "Last-Modified"
        same = headers.get(mark, self._validator) == self._validator
        if not (self.missing() and fits and same) or "Content-Encoding" in headers:
            raise _Spoilt(f"{self._shown} sent a part that was not requested")
        self._promised = total

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
        raise _Spoilt(f"{shown} was replaced by another file")
    passes = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS
    raise (BrokenOutput if passes else RefusedOutput)(f"{shown} answers HTTP {status}")


def _later() -> str:
    again = f"run again or {command('reconcile')}, which costs nothing"
    return f"It was paid for and stays at RunComfy for 7 days: {again}."
