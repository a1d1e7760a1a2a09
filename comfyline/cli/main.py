"""The `comfyline` command: parsing, and the one place where errors become exit codes."""

import logging
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import comfyline
from comfyline.cli import jobs, models, plans, runs, stack
from comfyline.cli.speech import explain, say
from comfyline.environment import home
from comfyline.errors import ComfylineError, Defect, Interrupted, UsageError

app = App(
    name="comfyline",
    help="Content pipelines on RunComfy: never pays twice, never loses what was paid for.",
    version="0.1.0",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for room in (runs, plans, jobs, stack):
    app.command(room.app, name="*")
app.command(models.app, name="models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with the exit code of the contract."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; every error becomes a message and an exit code here, and only here."""
    try:
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
        say(f"    {home() / 'logs' / 'comfyline.log'}")
        return Defect.exit_code
    return result if isinstance(result, int) else 0
