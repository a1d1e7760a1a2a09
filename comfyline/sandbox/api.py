"""RunComfy's calls, and the outputs' own address."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from comfyline.sandbox.blob_store import media_type
from comfyline.sandbox.faults import Receive, Scope, Send
from comfyline.sandbox.handlers import Handlers, data_uri, result_body, urls
from comfyline.sandbox.output_shape import fill_output

_LONGEST_PAGE = 500
_CHUNK = 64 * 1024


def _origin(http: HttpRequest) -> str:
    return str(http.base_url).rstrip("/")


def api_routes(handlers: Handlers) -> APIRouter:
    """Define the calls of the Model API, all behind the token."""

    def require_token(http: HttpRequest) -> None:
        handlers.require_token(http.headers.get("authorization", ""))

    routes = APIRouter(dependencies=[Depends(require_token)])

    @routes.get("/v1/models")
    def list_models(
        search: str | None = None,
        category: str | None = None,
        kind: str | None = None,
        *,
        include_schema: bool = False,
        limit: Annotated[int, Query(ge=1)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        found = handlers.catalogue.search(text=search, category=category, kind=kind)
        # No largest number is documented: more than this is answered with less than was asked for.
        page = found[offset : offset + min(limit, _LONGEST_PAGE)]
        return {
            "models": [entry.shown(with_schema=include_schema) for entry in page],
            "total": len(found),
        }

    @routes.get("/v1/models/{model_id:path}")
    def show_model(model_id: str) -> dict[str, Any]:
        return handlers.model(model_id).shown(with_schema=True)

    @routes.post("/v1/models/{model_id:path}")
    async def submit(model_id: str, http: HttpRequest) -> dict[str, Any]:
        request_id = await run_in_threadpool(handlers.accept, model_id, await http.body())
        handlers.worker.announce()
        return {
            "request_id": request_id,
            **urls(_origin(http), request_id),
            "cancel_url": f"{_origin(http)}/v1/requests/{request_id}/cancel",
        }

    @routes.get("/v1/requests/{request_id}/status")
    def status(request_id: str, http: HttpRequest) -> dict[str, Any]:
        request = handlers.known(request_id)
        body: dict[str, Any] = {"request_id": request_id, "status": request.status}
        if request.status == "in_queue":
            # Counted from 0: how many start before this one.
            body["queue_position"] = handlers.store.position(request)
        return {**body, **urls(_origin(http), request_id)}

    @routes.get("/v1/requests/{request_id}/result")
    def result(request_id: str, http: HttpRequest, *, include_cost: bool = False) -> Response:
        request = handlers.known(request_id)
        body = result_body(request, include_cost=include_cost)
        if request.status != "completed":
            return JSONResponse(body)
        entry = handlers.catalogue.find(request.model_id)
        if not request.once:
            places = [f"{_origin(http)}/cdn/{request_id}/{name}" for name in request.files]
            return JSONResponse(
                {**body, "output": fill_output(entry, request.input, places, request.files)}
            )
        paths = [handlers.blobs.path(request_id, name) for name in request.files]
        try:
            media = [data_uri(path) for path in paths]
        except FileNotFoundError:
            # Another call is handing them over at this moment.
            media = []
        handed = fill_output(entry, request.input, media, request.files)

        async def delivered() -> None:
            await run_in_threadpool(handlers.store.forget_files, request_id)
            await run_in_threadpool(handlers.blobs.drop, request_id)

        return _OnceAnswer({**body, "output": handed}, http, delivered)

    @routes.post("/v1/requests/{request_id}/cancel")
    def cancel(request_id: str) -> dict[str, Any]:
        handlers.known(request_id)
        handlers.store.cancel(request_id)
        request = handlers.known(request_id)
        outcome = "cancelled" if request.status == "cancelled" else "not_cancellable"
        return {"request_id": request_id, "status": request.status, "outcome": outcome}

    @routes.get("/prod/v2/balance")
    def balance() -> dict[str, Any]:
        return {"balance_usd": handlers.balance(), "currency": "USD"}

    return routes


def cdn_routes(handlers: Handlers) -> APIRouter:
    """Serve finished outputs, with ranges: no token is needed there, and none may come."""
    routes = APIRouter()

    @routes.api_route("/cdn/{request_id}/{name}", methods=["GET", "HEAD"])
    def serve_output(request_id: str, name: str, http: HttpRequest) -> Response:
        if "authorization" in http.headers:
            # The real host would simply swallow the token. Here a leak must be seen.
            return JSONResponse(
                {"message": "an output URL must not be sent an Authorization header"}, 400
            )
        request = handlers.store.find(request_id)
        if request is None or request.once or name not in request.files:
            return JSONResponse({"message": "there is no such file"}, 404)
        path = handlers.blobs.path(request_id, name)
        return FileResponse(path, media_type=media_type(name))

    return routes


class _OnceAnswer(JSONResponse):
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
