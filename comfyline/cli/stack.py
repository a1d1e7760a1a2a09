"""up, down, status, sandbox: the local stack."""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from comfyline.cli.console import answer, explain, results, say
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import reading_ledger, say_unrecorded, warn
from comfyline.config.environment import home, start_services
from comfyline.config.files import model_directories
from comfyline.errors import ComfylineError, UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.retention import at_risk
from comfyline.services import now
from comfyline.stack.ports import check_free
from comfyline.stack.services import SERVICES
from comfyline.stack.stack import ServiceStatus, addresses, inspect, stop


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


def status(*, profile: Profile = "sandbox", json_output: Json = False) -> int:
    """Show the local stack, and what is paid for that RunComfy will soon delete.

    Example: comfyline status
    """
    services = asyncio.run(inspect(home()))
    left, now = _unfinished(profile)
    if json_output:
        shown = [_as_json(service) for service in services]
        risks = [one.as_json() for one in at_risk(left, now)]
        answer(json.dumps({"services": shown, "at_risk": risks}))
    else:
        results.print(_table(services))
        if password := addresses(home()).prefect_auth_string:
            results.print(f"Prefect's page asks for a password: {password}", markup=False)
    warn(left, now)
    return 0


def _unfinished(profile: str) -> tuple[Sequence[Attempt], datetime]:
    """Return what was paid for and is not stored, and the ledger's time.

    A ledger that cannot be read is said, and no more.
    """

    async def work() -> tuple[Sequence[Attempt], datetime]:
        with reading_ledger(profile, of_all=True) as ledger:
            await say_unrecorded(profile, ledger)
            return await ledger.unfinished(), (await ledger.clock())()

    try:
        return asyncio.run(work())
    except ComfylineError as error:
        explain(error)
        return (), now()


def _as_json(service: ServiceStatus) -> dict[str, object]:
    return {"name": service.name, "state": service.state, "address": service.address}


def _table(services: Sequence[ServiceStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("service", "state", "address", "pid", "log"):
        table.add_column(column, no_wrap=True)
    for service in services:
        colour = {"running": "green", "stopped": "dim"}.get(service.state, "red")
        table.add_row(
            service.name,
            f"[{colour}]{service.state}[/]",
            service.address or "",
            str(service.pid or ""),
            _short(service.log),
        )
    return table


def env() -> int:
    """Print the variables that point Prefect's own commands at the local server.

    Example: eval "$(comfyline env)"; prefect deploy --all
    """
    found = asyncio.run(start_services(("prefect",), say))
    answer(f"export PREFECT_API_URL={found.prefect_api_url}")
    answer(f"export PREFECT_API_AUTH_STRING='{found.prefect_auth_string}'")
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

    if not 0 < port < 2**16:
        raise UsageError(f"{port} is no port for the sandbox", hint="--port takes 1 to 65535.")
    # Asked beforehand, to say who holds it.
    check_free("sandbox", port, "--port")
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
