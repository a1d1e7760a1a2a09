"""How the command line talks: people on stderr, programs on stdout, errors with what to do."""

import os
import sys

from rich.console import Console
from rich.text import Text

from comfyline.errors import ComfylineError, InputInvalid
from comfyline.redact import without_secrets

errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""Everything that a person reads while a command works."""


results = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
"""What a command was asked for, as a table for people; wide where nobody's screen limits it."""


def say(text: str) -> None:
    """Print a line for a person."""
    errors.print(Text(without_secrets(text)))


def answer(text: str) -> None:
    """Print what a command was asked for, on stdout, where programs and pipes find it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def explain(error: ComfylineError) -> None:
    """Explain an error as a person needs it: what is wrong, then what to do."""
    if isinstance(error, InputInvalid):
        for problem in error.problems:
            line = Text(problem.where, style="bold").append(f": {problem.message}", style="red")
            errors.print(line.append(f"\n    {problem.hint}" if problem.hint else "", style="cyan"))
        return
    errors.print(Text(without_secrets(error.message), style="red"))
    if error.hint:
        errors.print(Text(f"    {without_secrets(error.hint)}", style="cyan"))


_ON_A_TERMINAL = [file.fileno() for file in (sys.stdout, sys.stderr) if file.isatty()]


def leave_the_terminal() -> None:
    """Say nothing more to a terminal that went away: writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _ON_A_TERMINAL:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
