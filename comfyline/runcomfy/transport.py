"""Which connection a call takes, how far the paid POST got, and an answer as it is read once.

This is the only place that adds the token.

The POST that costs money has a connection of its own, opened for it and closed after it: an idle
one may die just when the next POST is written to it. All else may be asked again and shares
connections.
"""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import httpx

from comfyline.runcomfy.retry import read_retry_after

_MOVED_TO = "moved_to"
"""The extension of an answer that holds where a redirect leads."""

ENCODINGS = ("gzip", "deflate")
"""How an answer may be packed, and once only: else a few bytes unpack to gigabytes in one step."""

_DEEPEST = 32
"""No answer of RunComfy's is nested like that, and what walks through one must not be made to."""

Places = Mapping[str, tuple[int, int]]
"""Where the media of an answer begin and end in its file, by their placeholders."""

_AS_IT_CAME = "output"
_LONGEST_ORIGIN = 200
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
        trust = trust_for(urls)
        self._paid, self._shared = (
            {
                _key(url): httpx.AsyncHTTPTransport(
                    verify=trust, limits=limits, proxy=proxy_for(url)
                )
                for url in urls
            }
            for limits in (_PAID_LIMITS, _LIMITS)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, with the token."""
        paid = request.method == "POST" and _PAID in request.url.path
        way = (self._paid if paid else self._shared).get(_key(request.url))
        if way is None:
            raise httpx.UnsupportedProtocol("The token is sent only to RunComfy's API")
        headers = [*request.headers.raw, (b"Authorization", self._token)]
        # A copy: the request that errors refer to, and that others may log, never holds the token.
        signed = httpx.Request(
            request.method,
            request.url,
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        answer = await way.handle_async_request(signed)
        packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in {"", "identity", *ENCODINGS}:
            await answer.aclose()
            # How is not repeated: a header is outside text, and may hold anything.
            raise httpx.DecodingError("An answer is compressed in a way that was not requested")
        answer.extensions[_MOVED_TO] = answer.headers.pop("Location", "")
        answer.headers.pop("Set-Cookie", None)
        return answer

    async def aclose(self) -> None:
        """Close every connection."""
        for way in (*self._paid.values(), *self._shared.values()):
            await way.aclose()

    async def __aenter__(self) -> Self:
        """Open nothing by itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close every connection."""
        await self.aclose()


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of an answer that mean something.

    `content` is the parsed JSON, None when it is none; the token is nowhere in it but in `output`,
    which is not shown. `places` says where in the file of an answer that was written down the media
    lie for which `content` has only a placeholder.
    """

    status: int
    content: Any
    retry_after: float | None
    moved_to: str
    places: Places = field(default_factory=dict)


def read_response(
    answer: httpx.Response, body: bytes, token: str, places: Places | None = None
) -> Response:
    """Read an answer that came whole; `body` is what of it is to be parsed."""
    return Response(
        status=answer.status_code,
        content=_content(body, token),
        retry_after=read_retry_after(answer.headers.get("Retry-After", "")),
        moved_to=_origin(answer.extensions.get(_MOVED_TO, "")).replace(token, "***"),
        places=places or {},
    )


def _content(body: bytes, token: str) -> Any:
    try:
        content = json.loads(body)
        if not isinstance(content, Mapping):
            return content if isinstance(content, list) else None
        return {
            _without(token, name): value if name == _AS_IT_CAME else _without(token, value)
            for name, value in content.items()
        }
    except (ValueError, RecursionError):
        return None


def _without(token: str, value: Any, depth: int = 0) -> Any:
    """Return the same without the token: an error may quote what it complains about.

    Done with what was parsed, because JSON has more than one way of writing a character.
    """
    if depth > _DEEPEST:
        raise RecursionError
    match value:
        case str():
            return value.replace(token, "***")
        case [*parts]:
            return [_without(token, part, depth + 1) for part in parts]
        case dict():
            return {
                _without(token, name): _without(token, part, depth + 1)
                for name, part in value.items()
            }
        case _:
            return value


def _origin(location: str) -> str:
    """Return where a redirect leads, without the path and the query, which may be secrets."""
    try:
        url = httpx.URL(location)
        host = url.netloc.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return ""
    if url.scheme not in {"http", "https"} or not host or not host.isprintable():
        return ""
    return f"{url.scheme}://{host}"[:_LONGEST_ORIGIN]


class SendProgress(IntEnum):
    """How far a POST got. From `BODY_SENT` on RunComfy may hold all that it needs to accept it."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    HEADERS_SENT = 2
    BODY_SENT = 3
    ANSWER_BEGUN = 4


class TrackedBody(httpx.AsyncByteStream):
    """The body of one POST, which notices how much of it was taken.

    Its last byte is held back until the network has taken all the others. As long as it was not
    handed over, the request cannot be whole at RunComfy, whatever ends it: a reset, a timeout or a
    cancellation, after which buffers might still be flushed.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._progress = SendProgress.NOT_CONNECTED

    @property
    def progress(self) -> SendProgress:
        """How far it got until now, or further: never less far than it really got."""
        return self._progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body; asked for it only once the headers are out."""
        self._progress = SendProgress.HEADERS_SENT
        if len(self._body) > 1:
            yield self._body[:-1]
        self._progress = SendProgress.BODY_SENT
        yield self._body[-1:]

    async def trace(self, event: str, _info: dict[str, Any]) -> None:
        """Take what httpcore tells about the connection: it only makes the report finer.

        The names of its events are no promise, so nothing that decides about money rests on them.
        """
        if event.endswith("connect_tcp.complete"):
            self._progress = max(self._progress, SendProgress.CONNECTED)
        elif self._progress is SendProgress.BODY_SENT and event.endswith(
            "response_headers.complete"
        ):
            # Not before: a proxy answers, too, until it lets the POST through.
            self._progress = SendProgress.ANSWER_BEGUN


def trust_for(urls: list[httpx.URL]) -> ssl.SSLContext:
    """Read what TLS trusts; that takes a tenth of a second, so only where needed."""
    if any(url.scheme == "https" for url in urls):
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _key(url: httpx.URL) -> bytes:
    """Return what makes two addresses one origin."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    return b"%s://%s:%d" % (url.raw_scheme, url.raw_host.lower(), port)


def proxy_for(url: httpx.URL) -> str | None:
    """Return the machine's proxy for an origin, as httpx reads it when it is left to it.

    A proxy leads outwards: it is not to see what is meant for the machine itself.
    """
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or url.host in _LOOPBACK or proxy_bypass(url.netloc.decode("ascii")):
        return None
    return found if "://" in found else f"http://{found}"
