"""RunComfy's calls."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from comfyline.sandbox import answers, shapes
from comfyline.sandbox.desk import Desk

_LONGEST_PAGE = 500


def _origin(http: HttpRequest) -> str:
    return str(http.base_url).rstrip("/")


def api_routes(desk: Desk) -> APIRouter:
    """Define the calls of the Model API, all behind the token."""

    def require_token(http: HttpRequest) -> None:
        desk.require_token(http.headers.get("authorization", ""))

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
        found = desk.catalogue.search(text=search, category=category, kind=kind)
        # No largest number is documented: more than this is answered with less than was asked for.
        page = found[offset : offset + min(limit, _LONGEST_PAGE)]
        return {
            "models": [entry.shown(with_schema=include_schema) for entry in page],
            "total": len(found),
        }

    @routes.get("/v1/models/{model_id:path}")
    def show_model(model_id: str) -> dict[str, Any]:
        return desk.model(model_id).shown(with_schema=True)

    @routes.post("/v1/models/{model_id:path}")
    async def submit(model_id: str, http: HttpRequest) -> dict[str, Any]:
        request_id = await run_in_threadpool(desk.accept, model_id, await http.body())
        desk.execution.announce()
        urls = answers.addresses(_origin(http), request_id)
        cancel_url = f"{_origin(http)}/v1/requests/{request_id}/cancel"
        return {"request_id": request_id, **urls, "cancel_url": cancel_url}

    @routes.get("/v1/requests/{request_id}/status")
    def status(request_id: str, http: HttpRequest) -> dict[str, Any]:
        request = desk.known(request_id)
        body: dict[str, Any] = {"request_id": request_id, "status": request.status}
        if request.status == "in_queue":
            # Counted from 0: how many start before this one.
            body["queue_position"] = desk.store.position(request)
        return {**body, **answers.addresses(_origin(http), request_id)}

    @routes.get("/v1/requests/{request_id}/result")
    def result(request_id: str, http: HttpRequest, *, include_cost: bool = False) -> Response:
        request = desk.known(request_id)
        body = answers.result(request, include_cost=include_cost)
        if request.status != "completed":
            return JSONResponse(body)
        entry = desk.catalogue.find(request.model_id)
        if not request.once:
            urls = [f"{_origin(http)}/cdn/{request_id}/{name}" for name in request.files]
            return JSONResponse(
                {**body, "output": shapes.output(entry, request.input, urls, request.files)}
            )
        paths = [desk.vault.path(request_id, name, once=True) for name in request.files]
        try:
            media = [answers.data_uri(path) for path in paths]
        except FileNotFoundError:
            # Another call is handing them over at this moment.
            media = []

        async def delivered() -> None:
            await run_in_threadpool(desk.store.forget_files, request_id)
            await run_in_threadpool(desk.vault.drop, request_id)

        handed = shapes.output(entry, request.input, media, request.files)
        return answers.OnceAnswer({**body, "output": handed}, http, delivered)

    @routes.post("/v1/requests/{request_id}/cancel")
    def cancel(request_id: str) -> dict[str, Any]:
        desk.known(request_id)
        desk.store.cancel(request_id)
        request = desk.known(request_id)
        outcome = "cancelled" if request.status == "cancelled" else "not_cancellable"
        return {"request_id": request_id, "status": request.status, "outcome": outcome}

    @routes.get("/prod/v2/balance")
    def balance() -> dict[str, Any]:
        return {"balance_usd": desk.balance(), "currency": "USD"}

    return routes
