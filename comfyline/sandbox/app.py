"""Puts the sandbox together."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from comfyline.sandbox.admin import admin_routes
from comfyline.sandbox.answers import InputRefused, Refusal
from comfyline.sandbox.api import api_routes
from comfyline.sandbox.catalogue import Catalogue
from comfyline.sandbox.cdn import cdn_routes
from comfyline.sandbox.desk import Desk
from comfyline.sandbox.edge import Edge
from comfyline.sandbox.execution import Execution
from comfyline.sandbox.faults import App, FaultGate, Faults
from comfyline.sandbox.store import Clock, Store
from comfyline.sandbox.vault import Vault

if TYPE_CHECKING:
    from comfyline.sandbox.server import SandboxOptions


_LOOPBACK = ["127.0.0.1", "localhost"]


def create_app(options: "SandboxOptions", clock: Clock = time.time) -> App:
    """Build the whole sandbox as one ASGI app; `clock` decides what is older than 7 days."""
    store = Store(options.state, clock)
    vault = Vault(options.state)
    catalogue = Catalogue(options.models)
    faults = Faults()
    execution = Execution(
        store=store,
        vault=vault,
        catalogue=catalogue,
        faults=faults,
        slots=options.slots,
        speed=options.speed,
        pixels=options.pixels,
    )

    @contextlib.asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(execution.run())
        yield
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        store.close()

    app = FastAPI(lifespan=life, openapi_url=None)
    desk = Desk(
        token=options.token,
        balance_usd=options.balance_usd,
        store=store,
        vault=vault,
        catalogue=catalogue,
        execution=execution,
    )
    app.include_router(api_routes(desk))
    app.include_router(cdn_routes(store, vault))
    app.include_router(admin_routes(desk, faults))

    @app.exception_handler(Refusal)
    async def refused(_http: HttpRequest, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status)

    @app.exception_handler(InputRefused)
    async def input_refused(_http: HttpRequest, refusal: InputRefused) -> JSONResponse:
        return JSONResponse(refusal.body, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(_http: HttpRequest, _error: ClientDisconnect) -> Response:
        # Nobody reads this; it only says that a caller who left is no bug.
        return Response(status_code=400)

    if options.host in _LOOPBACK:
        # A web page whose name is made to lead here reads nothing: its calls carry that name.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK, www_redirect=False)
    return Edge(FaultGate(cast("App", app), faults))
