"""The bad days of RunComfy, ordered by a test and played a given number of times.

A fault acts where a call comes in, around the whole application, so that neither the calls nor
the queue know of it. Only faults of the generation are asked for by the execution.
"""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Point = Literal["submit", "status", "result", "cancel", "cdn", "generation"]

_PLACES: tuple[tuple[Point, str, re.Pattern[str]], ...] = (
    ("submit", "POST", re.compile(r"/v1/models/.+")),
    ("status", "GET", re.compile(r"/v1/requests/[^/]+/status")),
    ("result", "GET", re.compile(r"/v1/requests/[^/]+/result")),
    ("cancel", "POST", re.compile(r"/v1/requests/[^/]+/cancel")),
    ("cdn", "GET", re.compile(r"/cdn/.+")),
)
_KINDS: dict[Point, frozenset[str]] = {
    "submit": frozenset(
        {"drop-before", "drop-after", "truncate", "status", "html", "error-code-200", "delay"}
    ),
    "status": frozenset({"status", "html", "drop", "fields", "word", "error-code-200", "delay"}),
    "result": frozenset({"status", "html", "drop", "fields", "word", "error-code-200", "delay"}),
    "cancel": frozenset({"status", "html", "drop", "fields", "delay"}),
    "cdn": frozenset({"status", "html", "drop", "truncate", "empty", "delay"}),
    "generation": frozenset({"fail", "delay", "blank"}),
}
_HTML = b"<!doctype html><title>One moment</title><h1>Checking your browser</h1>"


class Fault(BaseModel):
    """One order for a fault. Which fields count depends on `kind`.

    `status` answers with `code`, and with `body` in the place of RunComfy's own refusal: a gateway
    in between has words of its own.
    """

    model_config = ConfigDict(extra="forbid")

    on: Point
    kind: str
    times: int = Field(default=1, ge=1)
    code: int = Field(default=500, ge=200, le=599)
    headers: dict[str, str] = Field(default_factory=dict)
    body: dict[str, Any] | None = None
    accept: bool = False
    seconds: float = Field(default=1.0, ge=0)
    word: str = "weird_status"
    fields: dict[str, Any] = Field(default_factory=dict)
    message: str = "the generation failed"
    error_code: int = 400001

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind not in _KINDS[self.on]:
            known = ", ".join(sorted(_KINDS[self.on]))
            raise ValueError(f"on {self.on} there are: {known}")
        return self


class Faults:
    """The faults that are still to be played; the oldest order comes first."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []
        self._lock = threading.Lock()

    def order(self, fault: Fault) -> None:
        """Add an order."""
        with self._lock:
            self._orders.append(fault)

    def clear(self) -> None:
        """Drop all orders."""
        with self._lock:
            self._orders.clear()

    def waiting(self) -> list[Fault]:
        """Return the orders that are left, with the `times` that are left."""
        with self._lock:
            return list(self._orders)

    def take(self, point: Point) -> Fault | None:
        """Use up one turn of the oldest fault for this point."""
        with self._lock:
            for place, fault in enumerate(self._orders):
                if fault.on == point:
                    if fault.times == 1:
                        del self._orders[place]
                    else:
                        self._orders[place] = fault.model_copy(update={"times": fault.times - 1})
                    return fault
        return None


class FaultGate:
    """An ASGI application that plays the ordered faults around another one."""

    def __init__(self, app: App, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or play the fault that was ordered for it."""
        fault = self._due(scope)
        if fault is None:
            await self._app(scope, receive, send)
            return
        match fault.kind:
            case "delay" if fault.on == "submit":
                # Accepted at once and answered late: a caller that gives up was accepted.
                heard = await self._unheard(scope, receive)
                await asyncio.sleep(fault.seconds)
                await _answer(send, heard.status, heard.body)
            case "delay":
                await asyncio.sleep(fault.seconds)
                await self._app(scope, receive, send)
            case "drop" | "drop-before":
                await _drain(receive)
                await drop(scope, receive)
            case "drop-after":
                await self._unheard(scope, receive)
                await drop(scope, receive)
            case "status":
                await (self._unheard(scope, receive) if fault.accept else _drain(receive))
                body = {"error_code": fault.code, "error_message": "ordered by a test"}
                body = body if fault.body is None else fault.body
                await _answer(send, fault.code, json.dumps(body).encode(), **fault.headers)
            case "html":
                # A page in between (a proxy, a challenge) hides an answer that was given.
                await (self._unheard(scope, receive) if fault.on == "submit" else _drain(receive))
                await _answer(send, 200, _HTML, **{"content-type": "text/html", **fault.headers})
            case "error-code-200":
                await _drain(receive)
                body = {"error_code": fault.error_code, "error_message": "ordered by a test"}
                await _answer(send, 200, json.dumps(body).encode())
            case "empty":
                await _answer(send, 200, b"", **{"content-type": "image/png"})
            case "word" | "fields":
                # The answer that was given, and in it what another would say.
                changed = fault.fields if fault.kind == "fields" else {"status": fault.word}
                heard = await self._unheard(scope, receive)
                answer = {**json.loads(heard.body), **changed}
                await _answer(send, heard.status, json.dumps(answer).encode())
            case _:
                await self._truncate(scope, receive, send)

    def _due(self, scope: Scope) -> Fault | None:
        if scope["type"] != "http":
            return None
        for point, method, pattern in _PLACES:
            if scope["method"] == method and pattern.fullmatch(scope["path"]):
                return self._faults.take(point)
        return None

    async def _unheard(self, scope: Scope, receive: Receive) -> "_Heard":
        """Run the application for real and keep its answer from the client."""
        heard = _Heard()
        await self._app(scope, receive, heard.send)
        return heard

    async def _truncate(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard = await self._unheard(scope, receive)
        await send(
            {"type": "http.response.start", "status": heard.status, "headers": heard.headers}
        )
        half = heard.body[: len(heard.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await drop(scope, receive)


class _Heard:
    """An answer of the application that did not go out."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


async def _drain(receive: Receive) -> None:
    # A body that is left unread would turn the close into a reset, at random.
    while (await receive()).get("more_body"):
        pass


async def drop(scope: Scope, receive: Receive) -> None:
    """Close the connection; what was sent before still goes out."""
    scope["state"]["transport"].close()
    # The server takes a call that ends without an answer for a bug of ours, unless it has seen
    # the connection go.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes, **headers: str) -> None:
    sent = {"content-type": "application/json", "content-length": str(len(body))}
    sent |= {name.lower(): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
