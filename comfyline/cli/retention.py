"""How the command line says what RunComfy will soon delete: on stderr, each level louder."""

from collections.abc import Iterable
from datetime import datetime

from rich.text import Text

from comfyline.cli.console import errors
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.retention import Urgency, warnings
from comfyline.redact import without_secrets

_STYLES = {
    Urgency.SOON: "yellow",
    Urgency.PRESSING: "bold yellow",
    Urgency.LAST_HOURS: "bold red",
    Urgency.OVER: "bold white on red",
}


def warn(attempts: Iterable[Attempt], now: datetime) -> None:
    """Warn of those of some attempts that have little time left."""
    for urgency, text in warnings(attempts, now):
        line = Text("⚠ ", style=_STYLES[urgency])
        errors.print(line.append(without_secrets(text), style=_STYLES[urgency]))
