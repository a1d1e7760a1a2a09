"""RunComfy's calls, the outputs' own address, and what only a test may ask of the sandbox."""

import asyncio
import base64
import hmac
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Query
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from comfyline.sandbox.blob_store import media_type
from comfyline.sandbox.catalogue import CatalogueEntry
from comfyline.sandbox.dialect import Violation, check, with_defaults
from comfyline.sandbox.faults import Fault
from comfyline.sandbox.output_shape import fill_output
from comfyline.sandbox.store import Request, without_queries
from comfyline.sandbox.worker import Worker

INVALID_MODEL = 400001
NO_BALANCE = 400002
INVALID_TOKEN = 400004
UNKNOWN_REQUEST = 404001

_LONGEST_PAGE = 500
_CHUNK = 64 * 1024


class Refusal(Exception):
    """A call is refused, with this answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def api_routes(worker: Worker) -> APIRouter:
    """Define the calls of the Model API, all behind the token."""
    store, catalogue, right = worker.store, worker.catalogue, worker.options.token.encode()

    async def require_token(http: HttpRequest) -> None:
        scheme, _, given = http.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), right)
        if scheme.lower() != "bearer" or not is_right:
            raise _refusal(401, INVALID_TOKEN, "account or token invalid")

    def known(request_id: str) -> Request:
        if (request := store.find(request_id)) is None:
            raise _refusal(404, UNKNOWN_REQUEST, "request unknown or expired")
        return request

    routes = APIRouter(dependencies=[Depends(require_token)])

    @routes.get("/v1/models")
    async def list_models(
        search: str | None = None,
        category: str | None = None,
        kind: str | None = None,
        *,
        include_schema: bool = False,
        limit: Annotated[int, Query(ge=1)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> JSONResponse:
        found = catalogue.search(text=search, category=category, kind=kind)
        # No largest number is documented: more than this is answered with less than was asked for.
        page = found[offset : offset + min(limit, _LONGEST_PAGE)]
        models = [entry.shown(with_schema=include_schema) for entry in page]
        return JSONResponse({"models": models, "total": len(found)})

    @routes.get("/v1/models/{model_id:path}")
    async def show_model(model_id: str) -> JSONResponse:
        return JSONResponse(_model(worker, model_id).shown(with_schema=True))

    @routes.post("/v1/models/{model_id:path}")
    async def submit(model_id: str, http: HttpRequest) -> JSONResponse:
        request_id = _accept(worker, model_id, await http.body())
        cancel_url = f"{_origin(http)}/v1/requests/{request_id}/cancel"
        return JSONResponse(
            {"request_id": request_id, **_urls(http, request_id), "cancel_url": cancel_url}
        )

    @routes.get("/v1/requests/{request_id}/status")
    async def status(request_id: str, http: HttpRequest) -> JSONResponse:
        request = known(request_id)
        body: dict[str, Any] = {"request_id": request_id, "status": request.status}
        if request.status == "in_queue":
            # Counted from 0: how many start before this one.
            body["queue_position"] = store.position(request)
        return JSONResponse({**body, **_urls(http, request_id)})

    @routes.get("/v1/requests/{request_id}/result")
    async def result(
        request_id: str, http: HttpRequest, *, include_cost: bool = False
    ) -> JSONResponse:
        request = known(request_id)
        body = _result_body(request, include_cost=include_cost)
        if request.status != "completed":
            return JSONResponse(body)
        if request.once:
            media = [_data_uri(worker.blobs.path(request_id, name)) for name in request.files]
        else:
            media = [f"{_origin(http)}/cdn/{request_id}/{name}" for name in request.files]
        entry = catalogue.find(request.model_id)
        body["output"] = fill_output(entry, request.input, media, request.files)
        if not request.once:
            return JSONResponse(body)

        def delivered() -> None:
            store.forget_files(request_id)
            worker.blobs.drop(request_id)

        return _OnceAnswer(body, http, delivered)

    @routes.post("/v1/requests/{request_id}/cancel")
    async def cancel(request_id: str) -> JSONResponse:
        known(request_id)
        store.cancel(request_id)
        now = known(request_id).status
        outcome = "cancelled" if now == "cancelled" else "not_cancellable"
        return JSONResponse({"request_id": request_id, "status": now, "outcome": outcome})

    @routes.get("/prod/v2/balance")
    async def balance() -> JSONResponse:
        return JSONResponse({"balance_usd": _balance(worker), "currency": "USD"})

    return routes


def open_routes(worker: Worker) -> APIRouter:
    """Define what needs no token: finished outputs, and the calls that RunComfy does not have."""
    store, blobs, faults = worker.store, worker.blobs, worker.faults
    routes = APIRouter()

    @routes.api_route("/cdn/{request_id}/{name}", methods=["GET", "HEAD"])
    async def serve_output(request_id: str, name: str, http: HttpRequest) -> Response:
        if "authorization" in http.headers:
            # The real host would simply swallow the token. Here a leak must be seen.
            return JSONResponse(
                {"message": "an output URL must not be sent an Authorization header"}, 400
            )
        request = store.find(request_id)
        if request is None or request.once or name not in request.files:
            return JSONResponse({"message": "there is no such file"}, 404)
        path = blobs.path(request_id, name)
        return FileResponse(path, media_type=media_type(name))

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.post("/sandbox/faults")
    async def order_fault(fault: Fault) -> list[Fault]:
        faults.append(fault)
        return faults

    @routes.get("/sandbox/faults")
    async def show_faults() -> list[Fault]:
        return faults

    @routes.delete("/sandbox/faults")
    async def clear_faults() -> list[Fault]:
        faults.clear()
        return faults

    @routes.post("/sandbox/expire/{request_id}")
    async def expire(request_id: str) -> dict[str, str]:
        if not store.expire(request_id):
            raise _refusal(404, UNKNOWN_REQUEST, "request unknown")
        blobs.drop(request_id)
        return {"request_id": request_id, "status": "expired"}

    @routes.get("/sandbox/account")
    async def account() -> JSONResponse:
        requests = [
            {
                "request_id": request.request_id,
                "model_id": request.model_id,
                "status": request.status,
                "charge_usd": request.charge_usd or 0.0,
                "created_at": _moment(request.created_at),
                "finished_at": request.finished_at and _moment(request.finished_at),
                "input": without_queries(request.input),
                "inputs_fetched_at": {
                    url: _moment(at) for url, at in store.fetches(request).items()
                },
            }
            for request in store.all()
        ]
        balance = _balance(worker)
        return JSONResponse(
            {"requests": requests, "charged_usd": store.charged(), "balance_usd": balance}
        )

    return routes


class _OnceAnswer(JSONResponse):
    """An answer whose content ceases to exist when, and only when, it has gone out whole."""

    def __init__(self, content: Any, http: HttpRequest, delivered: Callable[[], None]) -> None:
        super().__init__(content)
        self._http, self._delivered = http, delivered

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
            self._delivered()


def _model(worker: Worker, model_id: str) -> CatalogueEntry:
    if (entry := worker.catalogue.find(model_id)) is None:
        raise _refusal(400, INVALID_MODEL, "invalid model or resource id")
    return entry


def _balance(worker: Worker) -> float:
    return round(worker.options.balance_usd - worker.store.charged(), 6)


def _accept(worker: Worker, model_id: str, body: bytes) -> str:
    """Check a submission, take it into the queue and return its id."""
    entry = _model(worker, model_id)
    given = _parse_body(body)
    if mistakes := check(entry.input_schema, given):
        raise _input_refused(*mistakes)
    inputs = with_defaults(entry.input_schema, given)
    price = entry.charge(inputs)
    if _balance(worker) < price:
        raise _refusal(402, NO_BALANCE, "no balance left")
    request_id = str(uuid.uuid4())
    once = inputs.get("sync_mode") is True
    worker.store.add(request_id, model_id=model_id, inputs=inputs, price_usd=price, once=once)
    worker.announce()
    return request_id


def _origin(http: HttpRequest) -> str:
    """Return the origin that the caller used."""
    return str(http.base_url).rstrip("/")


def _urls(http: HttpRequest, request_id: str) -> dict[str, str]:
    """Return where a request is asked about."""
    base = f"{_origin(http)}/v1/requests/{request_id}"
    return {"status_url": f"{base}/status", "result_url": f"{base}/result"}


def _result_body(request: Request, *, include_cost: bool) -> dict[str, Any]:
    """Return the result of a request but for its output; before the end, where it stands."""
    body: dict[str, Any] = {
        "request_id": request.request_id,
        "status": request.status,
        "created_at": _moment(request.created_at),
    }
    if request.finished_at is not None:
        body["finished_at"] = _moment(request.finished_at)
        if include_cost:
            body["cost"] = request.charge_usd or 0.0
    if request.error is not None:
        body["error"] = {"code": "generation_failed", "message": request.error}
    return body


def _moment(seconds: float) -> str:
    """Write a time as RunComfy does: ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _data_uri(path: Path) -> str:
    return f"data:{media_type(path.name)};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _refusal(status: int, code: int, message: str) -> Refusal:
    """Refuse a call with RunComfy's number and a sentence."""
    return Refusal(status, {"error_code": code, "error_message": message})


def _input_refused(*mistakes: Violation) -> Refusal:
    """Refuse an input that does not fit the model's schema, with everything that is wrong."""
    told = [{"loc": ["body", *one.path], "msg": one.message, "type": one.kind} for one in mistakes]
    return Refusal(422, {"detail": told})


def _parse_body(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _input_refused(Violation((), "the body is no valid JSON", "json_invalid")) from error
    if not isinstance(value, dict):
        raise _input_refused(Violation((), "the body must be a JSON object", "type"))
    return value


def _no_constant(word: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(f"{word} is no JSON")
