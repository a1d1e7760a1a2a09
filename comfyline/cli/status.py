"""status: the local stack, and what is paid for that RunComfy will soon delete."""

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from comfyline.cli.console import print_error, print_json, results, table
from comfyline.cli.options import Json, Profile
from comfyline.cli.selection import (
    attempt_record,
    print_unrecorded,
    print_warnings,
    reading_ledger,
)
from comfyline.config.load import home
from comfyline.errors import ComfylineError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.retention import AtRisk, at_risk
from comfyline.services import now as wall_clock
from comfyline.stack.stack import ServiceStatus, addresses, inspect


async def status(*, profile: Profile = "sandbox", json_output: Json = False) -> None:
    """Show the local stack, and what is paid for that RunComfy will soon delete.

    Example: comfyline status
    """
    services = await inspect(home())
    left: Sequence[Attempt] = ()
    now = wall_clock()
    try:
        with reading_ledger(profile, of_all=True) as ledger:
            await print_unrecorded(profile, ledger)
            left, now = await ledger.unfinished(), (await ledger.clock())()
    except ComfylineError as error:
        print_error(error)
    if json_output:
        shown = [{"name": one.name, "state": one.state, "address": one.address} for one in services]
        risks = [_risk_record(one, now) for one in at_risk(left, now)]
        print_json({"services": shown, "at_risk": risks})
    else:
        results.print(_services_table(services))
        if password := addresses(home()).prefect_auth_string:
            results.print(f"The Prefect page asks for this password: {password}")
    print_warnings(left, now)


def _risk_record(one: AtRisk, now: datetime) -> dict[str, Any]:
    return {
        **attempt_record(one.attempt),
        "kept_until": (now + one.left).isoformat(),
        "hours_left": round(one.left / timedelta(hours=1), 1),
        "urgency": one.urgency.name.lower(),
    }


def _services_table(services: Sequence[ServiceStatus]) -> Table:
    shown = table("service", "state", "address", "pid", "log")
    for one in services:
        style = {"running": "green", "stopped": "dim"}.get(one.state, "red")
        log = os.path.relpath(one.log) if one.log.is_relative_to(Path.cwd()) else str(one.log)
        state = Text(one.state, style)
        shown.add_row(one.name, state, one.address or "", str(one.pid or ""), log)
    return shown
