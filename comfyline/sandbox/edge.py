"""The outermost layer of the server: one log line a request, and the way to its connection."""

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from comfyline.sandbox.faults import App, Message, Receive, Send, drop

log = logging.getLogger(__name__)


class Edge:
    """An ASGI application around all others.

    It logs method, path, status and time. Never the query, where signatures stand, nor a header.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # ASGI has no way to close a connection; the server's own request object has one.
        scope["state"] = {
            **scope.get("state", {}),
            "transport": send.__self__.transport,  # type: ignore[attr-defined]
        }
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
        finally:
            path = scope["raw_path"].decode("ascii", "replace")
            took = (time.perf_counter() - began) * 1000
            log.info("%s %s %s %.0f ms", scope["method"], path, outcome, took)
