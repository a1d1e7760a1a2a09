"""The `comfyline` command: parsing, and the one place where errors become exit codes.

The commands are named here and imported when they are asked for: `comfyline jobs` need not wait
for what only `comfyline run` uses.
"""

import logging
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

import comfyline
from comfyline.cli.console import print_error, print_line
from comfyline.errors import ComfylineError, Defect, Interrupted, UsageError

_COMMANDS = (
    "run",
    "plan",
    "check",
    "schemas",
    "generate",
    "jobs",
    "report",
    "cancel",
    "reconcile",
    "resolve",
    "metrics",
    "audit",
    "verify",
    "alerts:app",
    "ledger:app",
    "models:app",
    "up",
    "down",
    "status",
    "env",
    "sandbox",
)

app = App(
    name="comfyline",
    help="Content pipelines on RunComfy: never pays twice, never loses what was paid for.",
    version=comfyline.__version__,
    help_format="markdown",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
for _rank, _command in enumerate(_COMMANDS):
    _module, _, _group = _command.partition(":")
    app.command(f"comfyline.cli.{_module}:{_group or _module}", name=_module, sort_key=_rank)


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
        print_line(f"{error}\n    `comfyline --help` lists the commands.")
        return UsageError.exit_code
    except ComfylineError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print_line("Interrupted.")
        return Interrupted.exit_code
    except Exception as error:  # a defect is said in words, and logged whole
        logging.getLogger(comfyline.__name__).exception("defect")
        print_error(Defect(error))
        return Defect.exit_code
    return result if isinstance(result, int) else 0
