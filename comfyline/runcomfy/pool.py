"""How the pool for outputs is made: no token, no redirect, no proxy for the machine itself."""

from collections.abc import Mapping

import httpx

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def open_pool(
    *, limits: httpx.Limits, timeout: httpx.Timeout, headers: Mapping[str, str]
) -> httpx.AsyncClient:
    """A pool that follows no redirect and speaks HTTP/1.1.

    Not HTTP/2, where all files of a host would share one connection and its window: big files
    arrive sooner side by side, each on a connection of its own.
    """
    return httpx.AsyncClient(
        headers=headers,
        follow_redirects=False,
        limits=limits,
        timeout=timeout,
        # A proxy of the machine's leads outwards: it is not to see what is meant for the machine.
        mounts={f"all://{host}": None for host in _LOOPBACK},
    )
