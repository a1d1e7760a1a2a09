"""How every HTTP pool to RunComfy's hosts is made; what they must not do is said once."""

from collections.abc import Mapping
from ssl import SSLContext

import httpx

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def open_pool(
    *,
    limits: httpx.Limits,
    timeout: httpx.Timeout,
    verify: SSLContext | bool = True,
    base_url: str = "",
    headers: Mapping[str, str] | None = None,
) -> httpx.AsyncClient:
    """A pool that follows no redirect and speaks HTTP/1.1.

    Not HTTP/2: there one connection carries all calls, so that its end would put every POST under
    way in doubt at once; and its header compression logs every header, the token too.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        follow_redirects=False,
        limits=limits,
        timeout=timeout,
        verify=verify,
        # A proxy of the machine's leads outwards: it is not to see what is meant for the machine.
        mounts={f"all://{host}": None for host in _LOOPBACK},
    )
