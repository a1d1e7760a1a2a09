"""The process around the sandbox: the port, the signals, one log line a request, the exit code."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfyline.sandbox.api import Refusal, api_routes, open_routes
from comfyline.sandbox.faults import FaultGate, drop
from comfyline.sandbox.worker import SandboxOptions, Worker

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PORT_TAKEN = 69


def serve(options: SandboxOptions) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 0, or 69 for a taken port."""
    try:
        listener = socket.create_server((LOOPBACK, options.port), backlog=2048)
    except OSError as error:
        sys.stderr.write(
            f"sandbox: cannot listen on {LOOPBACK}:{options.port}: {error.strerror}\n"
            "    --port chooses another port\n"
        )
        return PORT_TAKEN
    # For every connection: asyncio would leave Nagle's delay of 40 ms on.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set_up_log()
    log.info("listening on http://%s:%s", LOOPBACK, options.port)
    config = uvicorn.Config(
        _create_app(options),
        # The sandbox writes its own line per request: uvicorn's would show query strings.
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        http="h11",
        timeout_graceful_shutdown=3,
    )
    # uvicorn raises the signal once more after its graceful shutdown.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _create_app(options: SandboxOptions) -> ASGIApp:
    """Put the sandbox together: the calls, the faults around them, and the log."""
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
    hosts = [LOOPBACK, "localhost"]
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


def _set_up_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("comfyline.sandbox", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("comfyline.sandbox").setLevel(logging.INFO)
    # It logs whole URLs, and a presigned URL is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
