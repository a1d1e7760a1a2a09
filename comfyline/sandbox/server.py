"""The process around the sandbox: the port, the signals, the log and the exit code."""

import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
PORT_TAKEN = 69


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How one sandbox runs. `models` are directories; a later one overrides an earlier one."""

    state: Path
    models: tuple[Path, ...]
    port: int = 4272
    token: str = "sandbox-token"  # noqa: S105 - opens nothing but this sandbox
    slots: int = 4
    speed: float = 1.0
    pixels: int = 1024
    balance_usd: float = 1000.0


def serve(options: SandboxOptions) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 0, or 69 for a taken port."""
    try:
        listener = socket.create_server((LOOPBACK, options.port), backlog=2048)
    except OSError as error:
        # The library's own text repeats the address.
        why = os.strerror(error.errno or 0)
        sys.stderr.write(
            f"sandbox: cannot listen on {LOOPBACK}:{options.port}: {why}\n"
            "    --port chooses another port\n"
        )
        return PORT_TAKEN
    # For every connection: asyncio would leave Nagle's delay of 40 ms on.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Imported late: the port is held before others can take it, and a taken one is said at once.
    import uvicorn

    from comfyline.sandbox.app import create_app

    _set_up_log()
    logging.getLogger("comfyline.sandbox").info("listening on http://%s:%s", LOOPBACK, options.port)
    config = uvicorn.Config(
        create_app(options),
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
