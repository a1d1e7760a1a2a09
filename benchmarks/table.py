"""The one way in which a benchmark speaks: a small table, then its ratios in a sentence each."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """The result of one benchmark. The first column holds names, all others figures.

    `ratios` are sentences that say which way round they are and what is better.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Sequence[str]


def show(table: Table) -> None:
    """Print a table with aligned columns."""
    lines = [list(table.columns), *map(list, table.rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.columns))]
    say(f"\n{table.title}\n")
    for line in lines:
        name, *figures = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        say("  " + "  ".join([name, *figures]).rstrip())
    say("")
    for ratio in table.ratios:
        say(f"  {ratio}")


def say(text: str) -> None:
    """Print one line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def ratio(numerator: float, denominator: float) -> str:
    """Write a ratio in three digits; a dash where it has no meaning."""
    return f"{numerator / denominator:.3g}" if denominator else "–"
