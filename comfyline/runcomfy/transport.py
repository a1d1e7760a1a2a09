"""Which connection a call takes, and the only place that adds the token.

Under one HTTP client lie two kinds of connections. The POST that costs money speaks HTTP/1.1 on a
connection of its own, opened for it and closed after it: on a shared one, as HTTP/2 has it, one
dying connection would put every POST under way in doubt, and an idle one may die just when the
next POST is written to it. All else may be asked again and takes HTTP/2 where the server offers
it.
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.request import getproxies, proxy_bypass

import httpx

MOVED_TO = "moved_to"
"""The extension of an answer that holds where a redirect leads."""

ENCODINGS = ("gzip", "deflate")
"""How an answer may be packed, and once only: else a few bytes unpack to gigabytes in one step."""

_PAID = "/v1/models/"
_PAID_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=0)
_LIMITS = httpx.Limits(max_connections=100)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class ApiTransport(httpx.AsyncBaseTransport):
    """Connections to the named origins and to no other; used by the one HTTP client.

    A request to any other origin is never sent. An answer loses two headers on which the client
    above would act: `Location`, which it would prepare to follow and may fail to read, and
    `Set-Cookie`, because the API knows no cookies and one that cannot be sent back would make every
    later call fail.
    """

    def __init__(self, token: str, origins: tuple[str, ...]) -> None:
        self._token = f"Bearer {token}".encode()
        urls = [httpx.URL(origin) for origin in origins]
        # Two, because a connection writes its protocols into the context while it is opened: with
        # one for both, a POST might offer HTTP/2 after all.
        paid, shared = _context(urls), _context(urls)
        self._paid, self._shared = (
            {
                _key(url): httpx.AsyncHTTPTransport(
                    verify=context, limits=limits, http2=http2, proxy=_proxy(url)
                )
                for url in urls
            }
            for context, limits, http2 in ((paid, _PAID_LIMITS, False), (shared, _LIMITS, True))
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, with the token."""
        paid = request.method == "POST" and _PAID in request.url.path
        way = (self._paid if paid else self._shared).get(_key(request.url))
        if way is None:
            raise httpx.UnsupportedProtocol("The token goes to RunComfy's API and nowhere else")
        headers = [*request.headers.raw, (b"Authorization", self._token)]
        # A copy: the request that errors refer to, and that others may log, never holds the token.
        signed = httpx.Request(
            request.method,
            request.url,
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        with _one_family_of_errors():
            answer = await way.handle_async_request(signed)
        packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in {"", "identity", *ENCODINGS}:
            await answer.aclose()
            # How is not repeated: a header is outside text, and may hold anything.
            raise httpx.DecodingError("An answer is packed as nobody asked for")
        answer.extensions[MOVED_TO] = answer.headers.pop("Location", "")
        answer.headers.pop("Set-Cookie", None)
        if isinstance(answer.stream, httpx.AsyncByteStream):
            answer.stream = _Body(answer.stream)
        return answer

    async def aclose(self) -> None:
        """Closes every connection."""
        for way in (*self._paid.values(), *self._shared.values()):
            await way.aclose()

    async def __aenter__(self) -> Self:
        """Opens nothing by itself: connections are made when they are needed."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Closes every connection."""
        await self.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer's body whose errors are those of httpx."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _one_family_of_errors():
            async for chunk in self._stream:
                yield chunk

    async def aclose(self) -> None:
        with _one_family_of_errors():
            await self._stream.aclose()


@contextmanager
def _one_family_of_errors() -> Iterator[None]:
    """Makes what the libraries below let through one of httpx's own errors.

    Of HTTP/2 some errors arrive as they were raised: those of h2, and a KeyError or ValueError
    over frames that no server should send.
    """
    try:
        yield
    except httpx.HTTPError:
        raise
    except Exception as error:
        raise httpx.RemoteProtocolError("what came is no HTTP") from error


def _context(urls: list[httpx.URL]) -> ssl.SSLContext:
    """What TLS trusts; reading the authorities takes a tenth of a second, so only where needed."""
    if any(url.scheme == "https" for url in urls):
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _key(url: httpx.URL) -> bytes:
    """What makes two addresses one origin."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    return b"%s://%s:%d" % (url.raw_scheme, url.raw_host.lower(), port)


def _proxy(origin: httpx.URL) -> str | None:
    """The machine's proxy for an origin, as httpx reads it when it is left to it.

    A proxy leads outwards: it is not to see what is meant for the machine itself.
    """
    proxies = getproxies()
    found = proxies.get(origin.scheme) or proxies.get("all")
    if not found or origin.host in _LOOPBACK or proxy_bypass(origin.netloc.decode("ascii")):
        return None
    return found if "://" in found else f"http://{found}"
