"""The shapes of RunComfy's answers, and of its refusals."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from comfyline.sandbox.dialect import Fault
from comfyline.sandbox.records import Request
from comfyline.sandbox.vault import media_type

INVALID_MODEL = 400001
NO_BALANCE = 400002
INVALID_TOKEN = 400004
UNKNOWN_REQUEST = 404001

_CHUNK = 64 * 1024


class Refusal(Exception):
    """A call is refused, with RunComfy's number and a sentence."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error_code": code, "error_message": message}


class InputRefused(Exception):
    """The input does not fit the model's schema; says everything that is wrong."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("the input does not fit the model's schema")
        self.body = {
            "detail": [
                {"loc": ["body", *fault.path], "msg": fault.message, "type": fault.kind}
                for fault in faults
            ]
        }


def moment(seconds: float) -> str:
    """Write a time as RunComfy does: ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def addresses(origin: str, request_id: str) -> dict[str, str]:
    """Return where a request is asked about; the origin is the one that the caller used."""
    base = f"{origin}/v1/requests/{request_id}"
    return {"status_url": f"{base}/status", "result_url": f"{base}/result"}


def result(request: Request, *, include_cost: bool) -> dict[str, Any]:
    """Return the result of a request but for its output; before the end, where it stands."""
    body: dict[str, Any] = {
        "request_id": request.request_id,
        "status": request.status,
        "created_at": moment(request.created_at),
    }
    if request.finished_at is not None:
        body["finished_at"] = moment(request.finished_at)
        if include_cost:
            body["cost"] = request.charge_usd or 0.0
    if request.error is not None:
        body["error"] = {"code": "generation_failed", "message": request.error}
    return body


def data_uri(path: Path) -> str:
    """Return a file as a `data:` URI."""
    return f"data:{media_type(path.name)};base64,{base64.b64encode(path.read_bytes()).decode()}"


class OnceAnswer(JSONResponse):
    """An answer whose content ceases to exist when, and only when, it has gone out whole."""

    def __init__(
        self, content: Any, http: HttpRequest, delivered: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(content)
        self._http = http
        self._delivered = delivered

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the body piece by piece, so that a caller who goes away is noticed."""
        body = bytes(self.body)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for start in range(0, len(body), _CHUNK):
            if await self._http.is_disconnected():
                return
            piece = body[start : start + _CHUNK]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        if not await self._http.is_disconnected():
            await send({"type": "http.response.body", "body": b""})
            await self._delivered()
