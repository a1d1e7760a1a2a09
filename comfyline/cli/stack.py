"""up, down, status, sandbox: the local stack."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.speech import answer, results, say
from comfyline.config_files import model_directories
from comfyline.environment import home, start_services
from comfyline.stack.control import inspect, stop
from comfyline.stack.services import SERVICES


def up() -> int:
    """Start the local stack: Prefect server with its web page, object storage, sandbox.

    What runs already is left alone. Ports: COMFYLINE_PREFECT_PORT, COMFYLINE_STORAGE_PORT,
    COMFYLINE_SANDBOX_PORT; otherwise free ones are found and kept.

    Example: comfyline up
    """
    asyncio.run(start_services(SERVICES, say))
    return status()


def down() -> int:
    """Stop what `up` started, and nothing else. Nothing is deleted.

    Example: comfyline down
    """
    stopped = asyncio.run(stop(home(), tell=say))
    if not stopped:
        say("Nothing was running.")
    return 0


def status() -> int:
    """Show each service of the local stack with its address and state.

    Example: comfyline status
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("service", "state", "address", "pid", "log"):
        table.add_column(column, no_wrap=True)
    for service in asyncio.run(inspect(home())):
        colour = {"running": "green", "stopped": "dim"}.get(service.state, "red")
        table.add_row(
            service.name,
            f"[{colour}]{service.state}[/]",
            service.address or "",
            str(service.pid or ""),
            _short(service.log),
        )
    results.print(table)
    return 0


def env() -> int:
    """Print the variables that point Prefect's own commands at the local server.

    Example: eval "$(comfyline env)"; prefect deploy --all
    """
    found = asyncio.run(start_services(("prefect",), say))
    answer(f"export PREFECT_API_URL={found.prefect_api_url}")
    answer(f"export PREFECT_HOME='{home() / 'prefect-client'}'")
    answer(f"export COMFYLINE_HOME='{home()}'")
    answer("export DO_NOT_TRACK=1")
    return 0


def sandbox(
    *,
    port: Annotated[int, Parameter(help="Port on 127.0.0.1.")] = 4272,
    slots: Annotated[int, Parameter(help="Requests that are worked on at a time.")] = 4,
    speed: Annotated[float, Parameter(help="2 takes half the time for everything.")] = 1.0,
) -> int:
    """Run the local stand-in for RunComfy in the foreground, until Ctrl-C.

    Its token is `sandbox-token`. Example: comfyline sandbox --port 4272 --speed 2
    """
    from comfyline.sandbox.server import SandboxOptions, serve

    options = SandboxOptions(
        state=home() / "sandbox-foreground",
        models=model_directories(Path.cwd())[::-1],
        port=port,
        slots=slots,
        speed=speed,
    )
    say(
        f"RUNCOMFY_BASE_URL=http://{options.host}:{port} RUNCOMFY_API_TOKEN={options.token}\n"
        "are what a client needs. Ctrl-C ends it."
    )
    return serve(options)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
