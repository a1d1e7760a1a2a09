"""Connections, how far the paid POST got, and an answer as it is read once.

The POST that costs money has a connection of its own, opened for it and closed after it: an idle
one may die just when the next POST is written to it. All else may be asked again and shares
connections.
"""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from comfyline.runcomfy.retry import read_retry_after
from comfyline.telemetry.spans import Fields, is_traced, span

ENCODINGS = ("gzip", "deflate")
"""How an answer may be packed, and once only: else a few bytes unpack to gigabytes in one step."""

_DEEPEST = 32
"""No answer of RunComfy's is nested like that, and what walks through one must not be made to."""

_AS_IT_CAME = "output"
_MOST_CONNECTIONS = 100
_MOST_IDLE = 16
_ORIGIN = re.compile(r"https?://[\w.-]{1,253}(:\d{1,5})?(?=[/?#]|$)", re.ASCII)
"""Where a redirect leads: without credentials, path and query, which may be secrets."""
_MODEL = re.compile(r"^(/v1/models/).+")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Connections:
    """Connections to any host, a pool for each origin.

    Below `httpx.AsyncClient`, which would keep cookies, prepare to follow redirects, and log URLs
    with their queries. The machine's proxy is used where there is one. `shows_paths`: traces may
    name the paths, which are no secrets.
    """

    def __init__(self, *, shows_paths: bool = False) -> None:
        self._shows_paths = shows_paths
        self._pools: dict[tuple[str, bool], httpx.AsyncHTTPTransport] = {}
        self._opening = asyncio.Lock()
        self._trust: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    async def send(
        self,
        request: httpx.Request,
        *,
        alone: bool = False,
        direct: bool = False,
        request_id: str | None = None,
    ) -> httpx.Response:
        """Return the beginning of an answer, to be closed by whoever reads it.

        `alone`: over a connection of its own; `direct`: past any proxy; `request_id`: which one it
        is about, for traces. Raises `httpx.HTTPError`,
        also for an answer that is packed in another way than `ENCODINGS`.
        """
        key = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}", alone
        async with self._opening:
            if key not in self._pools:
                idle = 0 if alone else _MOST_IDLE
                proxy = None if direct else _proxy_for(request.url)
                self._pools[key] = await asyncio.to_thread(self._open, request.url, proxy, idle)
        if is_traced():
            with span(f"HTTP {request.method}", self._about(request, request_id)) as add:
                answer = await self._pools[key].handle_async_request(request)
                add({"http.response.status_code": answer.status_code})
        else:
            answer = await self._pools[key].handle_async_request(request)
        packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in {"", "identity", *ENCODINGS}:
            await answer.aclose()
            # How is not repeated: a header is outside text, and may hold anything.
            raise httpx.DecodingError("An answer is compressed in a way that was not requested")
        return answer

    def _about(self, request: httpx.Request, request_id: str | None) -> Fields:
        """Return what a trace shows of a call: no header, no query, no request id in a route."""
        route = _MODEL.sub(r"\1{model_id}", request.url.path) if self._shows_paths else None
        if route and request_id:
            route = route.replace(request_id, "{request_id}")
        return {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "http.route": route,
            "comfyline.request_id": request_id,
        }

    def _open(self, url: httpx.URL, proxy: str | None, idle: int) -> httpx.AsyncHTTPTransport:
        trust = self._trust
        if url.scheme == "http" and not (proxy or "").startswith("https"):
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        elif trust is None:
            # It takes a tenth of a second to read.
            trust = self._trust = httpx.create_ssl_context()
        limits = httpx.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=idle)
        return httpx.AsyncHTTPTransport(verify=trust, limits=limits, proxy=proxy)


def _proxy_for(url: httpx.URL) -> str | None:
    """Return the machine's HTTP proxy for an origin, as httpx reads it when it is left to it.

    A proxy leads outwards: it is not to see what is meant for the machine itself.
    """
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or url.host in _LOOPBACK or proxy_bypass(url.netloc.decode("ascii")):
        return None
    scheme, _, rest = found.rpartition("://")
    scheme = scheme.lower() or "http"
    return f"{scheme}://{rest}" if scheme in {"http", "https"} else None


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of an answer that mean something.

    `body` is without the token; `content` is the parsed JSON, None when it is none, and has the
    token nowhere but in `output`, which is not shown.
    """

    status: int
    content: Any
    retry_after: float | None
    moved_to: str
    body: bytes = b""


def read_response(answer: httpx.Response, body: bytes, token: str) -> Response:
    """Read an answer whose body came whole."""
    origin = _ORIGIN.match(answer.headers.get("Location", ""))
    return Response(
        status=answer.status_code,
        content=_content(body, token),
        retry_after=read_retry_after(answer.headers.get("Retry-After", "")),
        moved_to=origin[0].replace(token, "***") if origin else "",
        body=body.replace(token.encode(), b"***"),
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
