"""CSV as people and spreadsheets write it (RFC 4180), each cell read by itself."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from comfyline.errors import Problem

_DELIMITERS = (",", ";", "\t")
# Longer ones are numbers of goods and parcels, which other programs would round.
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)
_SAVE = "save it as CSV UTF-8"


def csv_rows(path: Path, called: str) -> Iterator[dict[str, Any] | Problem]:
    """Gives each row by the names of the first line, or what is wrong with it, at its line.

    Lines without any value are passed over. Raises `OSError`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _rows(file, called)
    except UnicodeDecodeError:
        yield Problem(_first_broken(path, called), "the file is not UTF-8 text", _SAVE)


def cell(text: str) -> Any:
    """What one cell means, whatever stands in the others: a number, true, false, nothing or text.

    What a number would not keep stays text: leading zeros, a plus sign, an exponent.
    """
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    word = text.lower()
    return word == "true" if word in {"true", "false"} else text


def _rows(file: TextIO, called: str) -> Iterator[dict[str, Any] | Problem]:
    first = next((line for line in file if line.strip()), "")
    file.seek(0)
    reader = csv.reader(file, delimiter=_delimiter(first), strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Problem(f"{called}:{line}", f"cannot be read as CSV: {error}", _quotes(error))
            return
        if cells is None:
            break
        if not any(cells):
            continue
        if names is None:
            names = [name.strip() for name in cells]
            if problem := _header_problem(names):
                yield Problem(f"{called}:{line}", *problem)
                return
        elif len(cells) == len(names):
            yield dict(zip(names, map(cell, cells), strict=True))
        else:
            counted = f"{len(cells)} cell" + ("s" if len(cells) > 1 else "")
            message = f"the row has {counted}, and the first line names {len(names)} columns"
            hint = "put what holds the delimiter or a line break in double quotes"
            yield Problem(f"{called}:{line}", message, hint)
    if names is None:
        hint = "name the columns there: sku,photo,prompt"
        yield Problem(f"{called}:1", "the table has no first line with the columns' names", hint)


def _delimiter(first_line: str) -> str:
    """The one that makes most columns of the first line; the comma where that does not tell."""

    def columns(delimiter: str) -> int:
        return max((len(row) for row in csv.reader([first_line], delimiter=delimiter)), default=0)

    return max(_DELIMITERS, key=columns)


def _header_problem(names: Sequence[str]) -> tuple[str, str] | None:
    if empty := [str(number) for number, name in enumerate(names, 1) if not name]:
        return f"the first line names no column in cell {', '.join(empty)}", "name or remove it"
    if doubles := [name for name, times in Counter(names).items() if times > 1]:
        told = ", ".join(f"`{name}`" for name in doubles)
        return f"the first line names {told} more than once", "give each column its own name"
    return None


def _quotes(error: csv.Error) -> str:
    told = str(error)
    if "expected after" in told or "unexpected end" in told:
        return 'a double quote inside a quoted cell is written twice: ""'
    return ""


def _first_broken(path: Path, called: str) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{called}:{number}"
    return called
