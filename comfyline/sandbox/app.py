"""Put the sandbox together: the calls, the faults around them, and one log line for each."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfyline.sandbox.api import Refusal, api_routes, open_routes
from comfyline.sandbox.faults import FaultGate, drop
from comfyline.sandbox.server import SandboxOptions
from comfyline.sandbox.worker import Worker

log = logging.getLogger(__name__)


def create_app(options: SandboxOptions) -> ASGIApp:
    """Build the whole sandbox as one ASGI app."""
    worker = Worker(options)

    @contextlib.asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(worker.run())
        yield
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        worker.store.close()

    app = FastAPI(lifespan=life, openapi_url=None)
    app.include_router(api_routes(worker))
    app.include_router(open_routes(worker))

    @app.exception_handler(Refusal)
    async def refused(_http: HttpRequest, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status)

    # A web page whose name is made to lead here reads nothing: its calls carry that name.
    hosts = ["127.0.0.1", "localhost"]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return _RequestLog(FaultGate(app, worker.faults))


class _RequestLog:
    """The outermost middleware: one log line a request, and the way to its connection.

    It logs method, path, status and time. Never the query, where signatures stand, nor a header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # ASGI has no way to close a connection; the server's own request object has one.
        transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]
        scope["state"] = {**scope.get("state", {}), "transport": transport}
        outcome: str | int = "dropped"

        async def noting(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                outcome = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            # The process ends and this call took too long: it gets no answer.
            outcome = "stopped"
            await drop(scope, receive)
        except Exception:
            # A caller who left in the middle of a body is no bug.
            if not transport.is_closing():
                raise
            outcome = "left"
        finally:
            path = scope["raw_path"].decode("ascii", "replace")
            took = (time.perf_counter() - began) * 1000
            log.info("%s %s %s %.0f ms", scope["method"], path, outcome, took)
