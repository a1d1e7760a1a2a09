"""Media inputs on the web, read as RunComfy will read them: without login, following redirects.

An address may carry a permission in its query, so no message shows more than its path; and it may
come from anybody, so that no redirect leads into the private network of this machine.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from ssl import SSLContext

import httpx

from comfyline.errors import Unreachable
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.url_guard import UrlGuard

_CHUNK = 1024 * 1024
_TIMEOUT = httpx.Timeout(30, connect=10)
_SECONDS = 300
"""For one file in all, however slowly it trickles in."""
_MOST_BYTES = 512 * 1024 * 1024
"""Far more than RunComfy takes: an endless answer ends here."""
_REDIRECTS = 3
_GONE = {httpx.codes.NOT_FOUND, httpx.codes.GONE}
_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


async def read_url(url: str, take: Callable[[bytes], None], *, private_hosts: bool = False) -> None:
    """Give the bytes behind an address to `take`, a piece at a time and in a thread.

    With `private_hosts` the address itself may be one of this machine or its network. Raises
    `FileNotFoundError`, or `Unreachable` for everything else that is in the way.
    """
    shown = bare_url(url)
    guard = UrlGuard(shown, private_hosts=private_hosts)
    try:
        async with (
            asyncio.timeout(_SECONDS),
            _client(guard) as http,
            http.stream("GET", url) as answer,
        ):
            _check(answer, shown)
            size = 0
            async for chunk in answer.aiter_bytes(_CHUNK):
                size += len(chunk)
                if size > _MOST_BYTES:
                    raise Unreachable(f"{shown} is larger than {_MOST_BYTES >> 20} MB")
                await asyncio.to_thread(take, chunk)
    except httpx.TooManyRedirects:
        raise Unreachable(f"{shown} is redirected more than {_REDIRECTS} times") from None
    except (httpx.TimeoutException, TimeoutError):
        raise Unreachable(f"{shown} does not answer in time") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
        raise Unreachable(f"{shown} is not a valid address") from None
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Unreachable(f"{shown} cannot be read: {what_broke(error)}") from None


def bare_url(url: str) -> str:
    """Return an address without user, password, query and fragment: each may be a secret."""
    address = url.split("?", 1)[0].split("#", 1)[0]
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _client(guard: UrlGuard) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=_TIMEOUT,
        follow_redirects=True,
        max_redirects=_REDIRECTS,
        verify=certificates(),
        event_hooks={"request": [guard.enter]},
    )


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
