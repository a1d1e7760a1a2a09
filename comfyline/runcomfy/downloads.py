"""Outputs from RunComfy's hosts: no token, streamed to disk, whole or not at all."""

import asyncio
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import unquote_to_bytes

import httpx

from comfyline.errors import BrokenOutput, ComfylineError, Unreachable
from comfyline.runcomfy.outage import Sleep, backoff
from comfyline.runcomfy.pool import open_pool

# The read timeout is an idle timeout: a big file may take long, silence may not. Whoever waits for
# a connection waits without end, because those in front of it do not.
_TIMEOUT = httpx.Timeout(60, connect=10, pool=None)
_LIMITS = httpx.Limits(max_connections=16)
_CHUNK = 1024 * 1024
_TRIES = 5
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_LAST_PORT = 65535
_MOST_BYTES = 2 * 1024**3
"""Where RunComfy's own command line stops."""

_PASSING_STATUS = {404, 408, 425, 429}
"""4xx answers that may change: 404 because an output may be published a moment late."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that arrived whole."""

    sha256: str
    bytes: int


class _Final(BrokenOutput):
    """What the same question would only bring again."""


def output_urls(output: Any) -> Iterator[str]:
    """Every media URL or `data:` URI in a result's output, in order, however it is nested."""
    left = [output]
    while left:
        match left.pop():
            case str() as text if text[:8].lower().startswith(("https://", "http://", "data:")):
                yield text
            case Mapping() as fields:
                left.extend(reversed(list(fields.values())))
            case [*parts]:
                left.extend(reversed(parts))


class Downloads:
    """One HTTP pool without credentials; used as an async context manager.

    `hosts` are the patterns that outputs may come from; the host of `base_url` is one as well.
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
        self._hosts = tuple(host.lower() for host in hosts)
        self._api = httpx.URL(base_url)
        self._most_bytes = most_bytes
        self._sleep = sleep
        # An output that came compressed could not be compared with the length it promises.
        headers = {"Accept-Encoding": "identity"}
        self._http = open_pool(headers=headers, timeout=_TIMEOUT, limits=_LIMITS)

    async def __aenter__(self) -> Self:
        """Opens nothing by itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def save(self, url: str, target: Path) -> Download:
        """Puts one output under `target`, which exists only when it is whole.

        Raises `BrokenOutput` for a host that is not allowed or a body that stays cut short, and
        `Unreachable` when its server does not answer. No error shows a URL's query.
        """
        part = target.with_name(f"{target.name}.part")
        try:
            if url[:5].lower() == "data:":
                download = await asyncio.to_thread(_decode, url, part)
            else:
                download = await self._fetch(self._allowed(url), part)
        except ComfylineError:
            await asyncio.to_thread(part.unlink, missing_ok=True)
            raise
        await asyncio.to_thread(part.replace, target)
        return download

    async def _fetch(self, url: httpx.URL, part: Path) -> Download:
        shown = f"{url.scheme}://{url.netloc.decode()}{url.path}"
        error: ComfylineError = BrokenOutput(f"{shown} was not asked for")
        for attempt in range(_TRIES):
            if attempt:
                await self._sleep(backoff(attempt - 1))
            try:
                return await self._stream(url, shown, part)
            except _Final:
                raise
            except BrokenOutput as broken:
                error = broken
            except httpx.HTTPError as away:
                error = _away(shown, type(away).__name__)
        raise error

    async def _stream(self, url: httpx.URL, shown: str, part: Path) -> Download:
        digest, size = hashlib.sha256(), 0
        async with self._http.stream("GET", url) as answer:
            _check_status(shown, answer.status_code)
            file = await asyncio.to_thread(part.open, "wb")
            with file:
                async for chunk in answer.aiter_bytes(_CHUNK):
                    size += len(chunk)
                    if size > self._most_bytes:
                        raise _Final(f"{shown} is larger than {self._most_bytes} bytes")
                    await asyncio.to_thread(_take, chunk, digest, file)
        promised = answer.headers.get("Content-Length", "")
        if promised.isdecimal() and int(promised) != answer.num_bytes_downloaded:
            raise BrokenOutput(f"{shown} sent {answer.num_bytes_downloaded} of {promised} bytes")
        if not size:
            raise BrokenOutput(f"{shown} is empty")
        return Download(digest.hexdigest(), size)

    def _allowed(self, url: str) -> httpx.URL:
        """The URL as it will be asked for, so that nothing else is checked than what is done."""
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            raise _Final("An output's URL is none that can be read") from None
        host = parts.raw_host.decode("ascii").lower()
        own = parts.host == self._api.host and parts.scheme in {"https", self._api.scheme}
        # httpx would look up any host that a pattern happens to fit, such as `evil.test%2f.good`.
        listed = bool(
            parts.scheme == "https"
            and _HOST.fullmatch(host)
            and any(fnmatchcase(host, pattern) for pattern in self._hosts)
        )
        if not (own or listed):
            raise _Final(
                f"An output lies on {parts.scheme}://{host}, which the profile does not allow",
                hint="If that host is RunComfy's, add it to runcomfy.download_hosts.",
            )
        if (parts.port or 0) > _LAST_PORT:
            raise _Final(f"An output on {host} has a port that does not exist")
        if parts.userinfo:
            # It would become an Authorization header, and no output needs one.
            raise _Final(f"An output on {host} has a name or password in its URL")
        return parts


def _check_status(shown: str, status: int) -> None:
    if status == httpx.codes.OK:
        return
    if httpx.codes.is_server_error(status):
        raise BrokenOutput(f"{shown} answers HTTP {status}")
    kind = BrokenOutput if status in _PASSING_STATUS else _Final
    raise kind(f"{shown} answers HTTP {status}")


def _away(shown: str, reason: str) -> Unreachable:
    return Unreachable(
        f"{shown} cannot be fetched: {reason}",
        hint="Nothing is lost: run again or `comfyline reconcile`.",
    )


def _take(chunk: bytes, digest: "hashlib._Hash", file: IO[bytes]) -> None:
    digest.update(chunk)
    file.write(chunk)


def _decode(uri: str, part: Path) -> Download:
    """Writes a `data:` URI's bytes to `part`, a piece at a time."""
    head, _, body = uri.partition(",")
    base64 = head.lower().endswith(";base64")
    # A whole number of groups of four characters, so that each piece stands for itself.
    step = 4 * _CHUNK if base64 else max(1, len(body))
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            for start in range(0, len(body), step):
                piece = body[start : start + step]
                chunk = (
                    binascii.a2b_base64(piece, strict_mode=True)
                    if base64
                    else unquote_to_bytes(piece)
                )
                size += len(chunk)
                _take(chunk, digest, file)
    except ValueError as error:
        raise _Final("An output's data: URI is not valid base64") from error
    if not size:
        raise _Final("An output's data: URI is empty")
    return Download(digest.hexdigest(), size)
