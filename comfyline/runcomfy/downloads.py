"""Outputs from RunComfy's hosts: no token, streamed to disk, whole or not at all."""

import asyncio
import base64
import binascii
import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from comfyline.errors import BrokenOutput, Unreachable
from comfyline.runcomfy.outage import backoff

_TIMEOUT = httpx.Timeout(60, connect=10, pool=600)
_CHUNK = 256 * 1024
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Download:
    """A file that arrived whole."""

    sha256: str
    bytes: int


def output_urls(output: Any) -> Iterator[str]:
    """Every media URL or `data:` URI in a result's output, in order, however it is nested."""
    match output:
        case str() if output.startswith(("https://", "http://", "data:")):
            yield output
        case Mapping():
            for value in output.values():
                yield from output_urls(value)
        case [*parts]:
            for part in parts:
                yield from output_urls(part)


class Downloads:
    """One HTTP pool without credentials; used as an async context manager.

    `hosts` are the patterns that outputs may come from; the host of `base_url` is one as well.
    """

    def __init__(self, hosts: tuple[str, ...], base_url: str) -> None:
        self._hosts = hosts
        self._api = urlsplit(base_url)
        self._http = httpx.AsyncClient(follow_redirects=False, http2=True, timeout=_TIMEOUT)

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
        `Unreachable` when its server does not answer.
        """
        part = target.with_name(f"{target.name}.part")
        if url.startswith("data:"):
            download = await asyncio.to_thread(_decode, url, part)
        else:
            self._check_host(url)
            download = await self._fetch(url, part)
        await asyncio.to_thread(part.replace, target)
        return download

    async def _fetch(self, url: str, part: Path) -> Download:
        shown = url.split("?", maxsplit=1)[0]
        for attempt in range(_TRIES):
            try:
                return await self._stream(url, part)
            except (httpx.TransportError, BrokenOutput) as error:
                if attempt == _TRIES - 1:
                    if isinstance(error, BrokenOutput):
                        raise
                    raise Unreachable(
                        f"{shown} cannot be fetched: {type(error).__name__}",
                        hint="Nothing is lost: run again or `comfyline reconcile`.",
                    ) from None
            await asyncio.sleep(backoff(attempt))
        raise AssertionError

    async def _stream(self, url: str, part: Path) -> Download:
        digest, size = hashlib.sha256(), 0
        shown = url.split("?", maxsplit=1)[0]
        async with self._http.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise BrokenOutput(f"{shown} answers HTTP {answer.status_code}")
            with part.open("wb") as file:
                async for chunk in answer.aiter_raw(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            promised = answer.headers.get("Content-Length")
        if promised is not None and int(promised) != size:
            raise BrokenOutput(f"{shown} sent {size} of {promised} bytes")
        if not size:
            raise BrokenOutput(f"{shown} is empty")
        return Download(digest.hexdigest(), size)

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        own = host == self._api.hostname and parts.scheme in {"https", self._api.scheme}
        listed = parts.scheme == "https" and any(fnmatch.fnmatch(host, h) for h in self._hosts)
        if not (own or listed):
            raise BrokenOutput(
                f"An output lies on {parts.scheme}://{host}, which the profile does not allow",
                hint="If that host is RunComfy's, add it to runcomfy.download_hosts.",
            )


def _decode(uri: str, part: Path) -> Download:
    """Writes a `data:` URI's bytes to `part`, a piece at a time."""
    head, _, body = uri.partition(",")
    if not body or not head.endswith(";base64"):
        raise BrokenOutput("An output's data: URI is empty or not base64")
    digest, size = hashlib.sha256(), 0
    step = 4 * _CHUNK
    try:
        with part.open("wb") as file:
            for start in range(0, len(body), step):
                chunk = base64.b64decode(body[start : start + step], validate=True)
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    except binascii.Error as error:
        raise BrokenOutput("An output's data: URI is not valid base64") from error
    return Download(digest.hexdigest(), size)
