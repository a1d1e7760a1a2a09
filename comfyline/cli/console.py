"""How the command line prints: for people on stderr, results on stdout, errors with what to do."""

import json
import os
import sys
from collections.abc import Collection

from rich.console import Console
from rich.table import Table
from rich.text import Text

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.progress import Event, Note
from comfyline.redact import without_secrets

errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
"""Everything that a person reads while a command works."""

results = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200
)
"""What a command was asked for, as a table for people; wide where no screen limits it."""

_TERMINALS = [file.fileno() for file in (sys.stdout, sys.stderr) if file.isatty()]


def print_line(text: str) -> None:
    """Print a line for a person."""
    errors.print(without_secrets(text))


def print_note(event: Event) -> None:
    """Print the notes among the events of an operation, as an observer of `progress`."""
    if isinstance(event, Note):
        print_line(event.text)


def print_result(text: str) -> None:
    """Print what a command was asked for, on stdout, where programs and pipes find it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Print what a command was asked for as one JSON value."""
    print_result(json.dumps(value))


def print_error(error: ComfylineError) -> None:
    """Print what is wrong, then what to do."""
    if isinstance(error, InputInvalid):
        for problem in error.problems:
            print_problem(problem)
        return
    errors.print(Text(without_secrets(error.message), "red"))
    if error.hint:
        errors.print(Text(f"    {without_secrets(error.hint)}", "cyan"))


def print_problem(problem: Problem, before_hint: str = "\n    ") -> None:
    """Print a mistake in an input with its place."""
    line = Text(problem.where, "bold").append(f": {problem.message}", "red")
    errors.print(line.append(f"{before_hint}{problem.hint}" if problem.hint else "", "cyan"))


def table(*columns: str, wrapping: Collection[str] = ()) -> Table:
    """Make an empty table; only the `wrapping` columns may take several lines a row."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        wraps = column in wrapping
        made.add_column(column, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    return made


def leave_the_terminal() -> None:
    """Print nothing more to a terminal that went away: writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in _TERMINALS:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
