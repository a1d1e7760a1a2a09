"""The `comfyline` command: parsing, and the one place where errors become exit codes.

The commands are named here and imported when they are asked for: `comfyline jobs` need not wait
for what only `comfyline run` uses.
"""

import logging
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import comfyline
from comfyline.cli.console import explain, say
from comfyline.errors import ComfylineError, Defect, Interrupted, UsageError

_COMMANDS = (
    "run:run",
    "plan:plan",
    "check:check",
    "schemas:schemas",
    "run:generate",
    "jobs:jobs",
    "cancel:cancel",
    "run:reconcile",
    "resolve:resolve",
    "audit:audit",
    "verify:verify",
    "ledger:app",
    "models:app",
    "stack:up",
    "stack:down",
    "stack:status",
    "stack:env",
    "stack:sandbox",
)

app = App(
    name="comfyline",
    help="Content pipelines on RunComfy: never pays twice, never loses what was paid for.",
    version=comfyline.__version__,
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _rank, _place in enumerate(_COMMANDS):
    _module, _, _name = _place.partition(":")
    _called = _module if _name == "app" else _name
    app.command(f"comfyline.cli.{_place}", name=_called, sort_key=_rank)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with the exit code of the contract."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every error becomes a message and an exit code here, and only here."""
    try:
        if not arguments or arguments[0] in app.help_flags:
            # The list of commands shows the first line of each, so this once all are imported.
            app.resolved_commands()
        result = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        say(f"{error}\n    `comfyline --help` lists the commands.")
        return UsageError.exit_code
    except ComfylineError as error:
        explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        say("Interrupted.")
        return Interrupted.exit_code
    except Exception as error:  # a defect is said in words, and logged whole
        logging.getLogger(comfyline.__name__).exception("defect")
        explain(Defect(error))
        return Defect.exit_code
    return result if isinstance(result, int) else 0
