"""The plain sides of `downloads`: one file streamed to disk by an HTTP library, no more."""

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders.side import peak_mb, start

_CHUNK = 1024 * 1024


async def by_aiohttp(
    url: str, target: Path, also: Callable[[bytes], None] = lambda _: None
) -> None:
    """Download as aiohttp's documentation does, with a buffer of the same size as comfyline's."""
    import aiohttp

    async with aiohttp.ClientSession(read_bufsize=_CHUNK) as http:
        base, watch = peak_mb(), start()
        async with http.get(url) as answer:
            with target.open("wb") as file:
                async for piece in answer.content.iter_chunked(_CHUNK):
                    file.write(piece)
                    also(piece)
        watch.tell(base_mb=base)


async def by_aiohttp_hashed(url: str, target: Path) -> None:
    """Download as `by_aiohttp`, with the hash that comfyline needs of every output."""
    await by_aiohttp(url, target, hashlib.sha256().update)


async def by_httpx(url: str, target: Path) -> None:
    """Download as httpx's documentation does."""
    import httpx

    async with httpx.AsyncClient(trust_env=False) as http:
        base, watch = peak_mb(), start()
        async with http.stream("GET", url) as answer:
            with target.open("wb") as file:
                async for piece in answer.aiter_bytes(_CHUNK):
                    file.write(piece)
        watch.tell(base_mb=base)


if __name__ == "__main__":
    ways = {"aiohttp": by_aiohttp, "hashed": by_aiohttp_hashed, "httpx": by_httpx}
    fetched = Path("fetched")
    asyncio.run(ways[sys.argv[1]](sys.argv[2], fetched))
    fetched.unlink()
