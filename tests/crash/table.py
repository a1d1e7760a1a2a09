"""The table of the crash matrix, printed at the end of a test run by whichever process prints."""

from typing import Any

import pytest

_COLUMNS = ("point", "killed", "the next run", "charges", "files")
_rows: list[tuple[str, ...]] = []


def tell_row(*cells: str) -> None:
    """Puts one scene into the table that the test run prints at its end."""
    _rows.append(cells)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where tests run in several processes, the rows go to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["crash_rows"] = _rows


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _rows.extend(tuple(row) for row in getattr(node, "workeroutput", {}).get("crash_rows", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    rows = [_COLUMNS, *_rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    terminalreporter.section("crash matrix")
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(line.rstrip())
