"""Fetches the submitted URLs as RunComfy's servers would: from outside, with limits, no cookies."""

import asyncio
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from comfyline.sandbox.dialect import MediaValue, refuse_url

_MEGABYTE = 1024 * 1024
_LIMITS = {"image": 50 * _MEGABYTE, "video": 100 * _MEGABYTE, "audio": 100 * _MEGABYTE}
_REDIRECTS = 3
_USER_AGENT = "RunComfy-Sandbox/1.0"


class Unusable(Exception):
    """A submitted medium cannot be used. The message is for the caller, and holds no query."""


def client() -> httpx.AsyncClient:
    """Open the HTTP client for inputs; one serves the whole process."""
    direct = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
    return httpx.AsyncClient(
        timeout=httpx.Timeout(20.0, connect=10.0),
        headers={"User-Agent": _USER_AGENT},
        # A proxy of the machine's leads outwards, never back to the machine.
        mounts=direct,
    )


async def fetch(http: httpx.AsyncClient, media: MediaValue, target: Path) -> None:
    """Stream one media input to `target`. Raises Unusable with the reason."""
    url = str(media.value)
    field = ".".join(str(part) for part in media.path)
    try:
        for _ in range(_REDIRECTS + 1):
            if refuse_url(url):
                raise Unusable(f"{field}: redirected to a URL that is not https")
            async with http.stream("GET", url) as answer:
                if answer.has_redirect_location:
                    url = urljoin(url, answer.headers["location"])
                    continue
                await _receive(answer, field, _LIMITS[media.kind], target)
                return
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        host = urlsplit(url).hostname
        raise Unusable(f"{field}: {host} cannot be reached ({type(error).__name__})") from error
    raise Unusable(f"{field}: more than {_REDIRECTS} redirects")


async def _receive(answer: httpx.Response, field: str, limit: int, target: Path) -> None:
    if answer.status_code != httpx.codes.OK:
        raise Unusable(f"{field}: the file's server answered with {answer.status_code}")
    size = 0
    file = await asyncio.to_thread(target.open, "wb")
    with file:
        async for chunk in answer.aiter_bytes(_MEGABYTE):
            size += len(chunk)
            if size > limit:
                raise Unusable(f"{field}: larger than {limit // _MEGABYTE} MB")
            await asyncio.to_thread(file.write, chunk)
    if size == 0:
        raise Unusable(f"{field}: the file is empty")
