"""Tables as sources: one row one item, from CSV, JSON lines and Parquet, with types kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from comfyline.broken_connections import why_not
from comfyline.errors import InputInvalid, Problem
from comfyline.pipeline.table_csv import csv_rows
from comfyline.pipeline.table_jsonl import jsonl_rows
from comfyline.pipeline.table_parquet import parquet_rows

Row = dict[str, Any]
ReadRows = Callable[[Path, str], Iterator[Row | Problem]]
"""Reads a file that is called by a name in messages; gives rows, and problems in their place."""

_READERS: Mapping[str, tuple[str, ReadRows]] = {
    ".csv": ("CSV", csv_rows),
    ".tsv": ("CSV", csv_rows),
    ".jsonl": ("JSON lines", jsonl_rows),
    ".ndjson": ("JSON lines", jsonl_rows),
    ".parquet": ("Parquet", parquet_rows),
}
_CONTENTS: Sequence[tuple[bytes, str, str]] = (
    (b"PAR1", "Parquet", "call it .parquet"),
    (b"PK\x03\x04", "an Excel or another zipped file", "save it as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save it as CSV UTF-8"),
    (b"\x1f\x8b", "packed with gzip", "unpack it"),
    (b"\xff\xfe", "text in UTF-16", "save it as CSV UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as CSV UTF-8"),
    (b"%PDF", "a PDF", "save the table as CSV UTF-8"),
)
_UTF8_MARK = b"\xef\xbb\xbf"
_MOST_TOLD = 20


def read_table(path: Path, called: str, where: str) -> list[Row]:
    """Reads a table that the pipeline calls by its address, from its file or a copy of it.

    Raises `InputInvalid` with every row that cannot be read, each at `called:line`, or at `where`
    when the whole file is something else.
    """
    ending = PurePosixPath(called).suffix.lower()
    try:
        with path.open("rb") as file:
            begin = file.read(64)
        if problem := _wrong_format(ending, begin, called, where):
            raise InputInvalid([problem])
        read = list(_READERS[ending][1](path, called))
    except OSError as error:
        reason = why_not(error)
        raise InputInvalid([Problem(where, f"{called} cannot be read: {reason}")]) from None
    if problems := [one for one in read if isinstance(one, Problem)]:
        raise InputInvalid(_first_of(problems, called))
    return [one for one in read if not isinstance(one, Problem)]


def _wrong_format(ending: str, begin: bytes, called: str, where: str) -> Problem | None:
    if ending not in _READERS:
        known = ", ".join(_READERS)
        hint = "one object a line, called .jsonl, is read" if ending == ".json" else ""
        return Problem(where, f"{called} is no table that is known here ({known})", hint)
    expected = _READERS[ending][0]
    held, hint = _held(begin)
    if expected == "Parquet":
        said = held or "something else"
        return None if held == expected else Problem(where, f"{called} is no Parquet but {said}")
    text = begin.removeprefix(_UTF8_MARK).lstrip()
    if not held and expected == "CSV" and text.startswith((b'{"', b"{ ", b"[{")):
        held, hint = "JSON", "write one object a line and call it .jsonl"
    if not held and expected == "JSON lines" and text.startswith(b"["):
        held, hint = "a JSON list", "write one object a line, without [ and ]"
    return Problem(where, f"{called} is no {expected} but {held}", hint) if held else None


def _held(begin: bytes) -> tuple[str, str]:
    found = (told for mark, *told in _CONTENTS if begin.startswith(mark))
    what, hint = next(found, ("", ""))
    return what, hint


def _first_of(problems: Sequence[Problem], called: str) -> Iterable[Problem]:
    yield from problems[:_MOST_TOLD]
    if (more := len(problems) - _MOST_TOLD) > 0:
        yield Problem(called, f"and {more:,} more mistakes like these")
