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

_COMMANDS = {
    "run": "Run a pipeline to its end with live progress; makes only what is not there yet.",
    "plan": "Show what `run` would make and why, what is there already and the cost; spends "
    "nothing.",
    "check": "Find every mistake in the files at once, each with its place and what to write "
    "instead.",
    "schemas": "Write the JSON Schemas for editors to configs/schemas/, with the models of "
    "configs/models/.",
    "generate": "Make one ad-hoc request through the same six tasks.",
    "jobs": "List the ledger: every request, its state, cost and outputs, newest first.",
    "report": "Tell what was made, for how much, and what was not paid again.",
    "cancel": "Cancel what is queued: jobs, a run, or a pipeline; says what can no longer be "
    "cancelled.",
    "reconcile": "Finish what an interrupted run left behind: poll, fetch and store what was paid "
    "for.",
    "resolve": "Answer what only a person can decide; without an answer, show what is known of the "
    "job.",
    "metrics": "Serve the ledger's numbers as a page for Prometheus, until Ctrl-C.",
    "audit": "Compare charges, jobs and files, and name every difference; changes nothing.",
    "verify": "Read every stored file again and compare it with the SHA-256 written down for it.",
    "alerts:app": "Who is told when a run failed, money is in doubt or time runs out.",
    "ledger:app": "The record of what was paid for.",
    "models:app": "What RunComfy offers: list it, show a model's inputs, pull its schema.",
    "up": "Start the local stack: Prefect server with its web page, object storage, sandbox.",
    "down": "Stop what `up` started, and nothing else. Nothing is deleted.",
    "status": "Show the local stack, and what is paid for that RunComfy will soon delete.",
    "env": "Print the variables that point Prefect's own commands at the local server.",
    "sandbox": "Run the local stand-in for RunComfy in the foreground, until Ctrl-C.",
}
"""What the list of commands says of each, so that it need not import them all."""


def make_app(*, listing: bool = False) -> App:
    """Make the command line; for `listing` the commands alone, with a line on each."""
    app = App(
        name="comfyline",
        help="Content pipelines on RunComfy: never pays twice, never loses what was paid for.",
        version=comfyline.__version__,
        help_format="markdown",
        result_action="return_value",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for rank, (command, line) in enumerate(_COMMANDS.items()):
        module, _, group = command.partition(":")
        path = f"comfyline.cli.{module}:{group or module}"
        app.command(path, name=module, help=line if listing else None, sort_key=rank)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with the exit code of the contract."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every error becomes a message and an exit code here, and only here."""
    try:
        listing = not arguments or arguments[0] in {"--help", "-h"}
        app = make_app(listing=listing)
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
