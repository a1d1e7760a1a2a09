"""The bad days of RunComfy, ordered by a test and played a given number of times.

A fault acts where a call comes in, around the whole application, so that neither the calls nor
the queue know of it. Only faults of the generation are asked for by the execution.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Point = Literal["submit", "status", "result", "cancel", "cdn", "generation"]

_PLACES: tuple[tuple[Point, str, re.Pattern[str]], ...] = (
    ("submit", "POST", re.compile(r"/v1/models/.+")),
    ("status", "GET", re.compile(r"/v1/requests/[^/]+/status")),
    ("result", "GET", re.compile(r"/v1/requests/[^/]+/result")),
    ("cancel", "POST", re.compile(r"/v1/requests/[^/]+/cancel")),
    ("cdn", "GET", re.compile(r"/cdn/.+")),
)
_POLLING = ("delay", "drop", "error-code-200", "fields", "html", "status", "word")
_KINDS: dict[Point, tuple[str, ...]] = {
    "submit": (
        *("delay", "drop-after", "drop-before", "error-code-200", "html", "status", "truncate"),
    ),
    "status": _POLLING,
    "result": _POLLING,
    "cancel": ("delay", "drop", "fields", "html", "status"),
    "cdn": ("delay", "drop", "empty", "html", "status", "truncate"),
    "generation": ("blank", "delay", "fail"),
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
            raise ValueError(f"on {self.on} there are: {', '.join(_KINDS[self.on])}")
        return self


class Faults(list[Fault]):
    """The faults that are still to be played, the oldest first. Used on the event loop alone."""

    def take(self, point: Point) -> Fault | None:
        """Use up one turn of the oldest fault for this point."""
        fault = next((fault for fault in self if fault.on == point), None)
        if fault is not None:
            fault.times -= 1
            if not fault.times:
                self.remove(fault)
        return fault


class FaultGate:
    """An ASGI application that plays the ordered faults around another one."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app, self._faults = app, faults

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
                await send(heard.start)
                await send({"type": "http.response.body", "body": heard.body})
            case "delay":
                await asyncio.sleep(fault.seconds)
                await self._app(scope, receive, send)
            case "drop" | "drop-before":
                await _drain(receive)
                await drop(scope, receive)
            case "drop-after":
                await self._unheard(scope, receive)
                await drop(scope, receive)
            case "truncate":
                heard = await self._unheard(scope, receive)
                await send(heard.start)
                half = heard.body[: len(heard.body) // 2]
                await send({"type": "http.response.body", "body": half, "more_body": True})
                await drop(scope, receive)
            case _:
                answer = await self._answer(fault, scope, receive)
                await answer(scope, receive, send)

    async def _answer(self, fault: Fault, scope: Scope, receive: Receive) -> Response:
        """Return what is answered instead of the application, which may have run all the same."""
        if fault.kind in {"word", "fields"}:
            # The answer that was given, and in it what another would say.
            changed = fault.fields if fault.kind == "fields" else {"status": fault.word}
            heard = await self._unheard(scope, receive)
            return JSONResponse({**json.loads(heard.body), **changed}, heard.start["status"])
        # A page in between (a proxy, a challenge) hides an answer that was given.
        is_hidden = fault.kind == "html" and fault.on == "submit"
        is_accepted = is_hidden or (fault.kind == "status" and fault.accept)
        await (self._unheard(scope, receive) if is_accepted else _drain(receive))
        match fault.kind:
            case "html":
                return Response(_HTML, headers={"content-type": "text/html", **fault.headers})
            case "error-code-200":
                return JSONResponse(_refusal(fault.error_code))
            case "empty":
                return Response(media_type="image/png")
        body = _refusal(fault.code) if fault.body is None else fault.body
        return JSONResponse(body, fault.code, fault.headers)

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


@dataclass(slots=True)
class _Heard:
    """An answer of the application that did not go out."""

    start: Message = field(default_factory=dict)
    body: bytes = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        self.body += message.get("body", b"")


def _refusal(code: int) -> dict[str, Any]:
    return {"error_code": code, "error_message": "ordered by a test"}


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
