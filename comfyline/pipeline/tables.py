"""Read tables as sources: one row one item, from CSV, JSON lines and Parquet, with types kept."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from comfyline.errors import InputInvalid, Problem

Row = dict[str, Any]

_SAVE_AS_CSV = "save it as CSV UTF-8"
_CONTENTS: Sequence[tuple[bytes, str, str]] = (
    (b"PAR1", "Parquet", "call it .parquet"),
    (b"PK\x03\x04", "an Excel or another zipped file", _SAVE_AS_CSV),
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
    (b"\xff\xfe", "text in UTF-16", _SAVE_AS_CSV),
)
_UTF8_MARK = b"\xef\xbb\xbf"
_FORMATS: Mapping[str, str] = {
    ".csv": "CSV",
    ".tsv": "CSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
}
_MOST_TOLD = 20
_DELIMITERS = (",", ";", "\t")
"""The one that makes most columns of the first line is taken, the comma in doubt."""
# Longer ones are numbers of goods and parcels, which other programs would round.
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)
_PARQUET_ROWS_AT_ONCE = 1000


def read_table(path: Path, called: str, where: str) -> list[Row]:
    """Read a table that the pipeline calls by its address, from its file or a copy of it.

    Raises `InputInvalid` with every row that cannot be read, each at `called:line`, or at `where`
    when the whole file is something else.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(64)
        if problem := _wrong_format(begin, called, where):
            raise InputInvalid([problem])
        match _FORMATS[PurePosixPath(called).suffix.lower()]:
            case "CSV":
                read = list(_csv_rows(_text(path, called), called))
            case "JSON lines":
                lines = enumerate(_text(path, called).split("\n"), 1)
                read = [_json_row(line, f"{called}:{at}") for at, line in lines if line.strip()]
            case _:
                read = list(_parquet_rows(path, called))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputInvalid([Problem(where, f"{called} cannot be read: {reason}")]) from None
    if problems := [one for one in read if isinstance(one, Problem)]:
        if more := problems[_MOST_TOLD:]:
            problems[_MOST_TOLD:] = [Problem(called, f"and {len(more):,} more mistakes like these")]
        raise InputInvalid(problems)
    return [one for one in read if not isinstance(one, Problem)]


def _text(path: Path, called: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(f"{called}:{line}", "the file is not UTF-8 text", "save it in UTF-8")
        raise InputInvalid([problem]) from None


def _wrong_format(begin: bytes, called: str, where: str) -> Problem | None:
    expected = _FORMATS.get(PurePosixPath(called).suffix.lower(), "")
    one_a_line = "write one object a line and call it .jsonl"
    if not expected:
        hint = one_a_line if called.endswith(".json") else ""
        message = f"unsupported table format: {called} (supported: {', '.join(_FORMATS)})"
        return Problem(where, message, hint)
    held, hint = next((told for mark, *told in _CONTENTS if begin.startswith(mark)), ("", ""))
    text = begin.removeprefix(_UTF8_MARK).lstrip()
    if expected == "Parquet":
        held, hint = held or "something else", ""
    elif expected == "CSV" and text.startswith((b'{"', b"{ ", b"[{")):
        held, hint = "JSON", one_a_line
    elif expected == "JSON lines" and text.startswith(b"["):
        held, hint = "a JSON list", "write one object a line, without [ and ]"
    if held in ("", expected):
        return None
    return Problem(where, f"{called} is not {expected}, but {held}", hint)


def cell(text: str) -> Any:
    """Read one cell of CSV, whatever stands in the others: a number, true, false, nothing or text.

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


def _csv_rows(text: str, called: str) -> Iterator[Row | Problem]:
    """Yield each row of CSV (RFC 4180) by the names of the first line, or what is wrong with it.

    Lines without any value are passed over.
    """
    lines = io.StringIO(text, newline="")

    def columns(delimiter: str) -> int:
        lines.seek(0)
        with suppress(csv.Error):  # It is told below, where all is read.
            rows = csv.reader(lines, delimiter=delimiter)
            return next((len(row) for row in rows if any(row)), 0)
        return 0

    delimiter = max(_DELIMITERS, key=columns)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = f"{called}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            is_quote = any(word in str(error) for word in ("expected after", "unexpected end"))
            hint = 'a double quote inside a quoted cell is written twice: ""' if is_quote else ""
            yield Problem(where, f"cannot be read as CSV: {error}", hint)
            return
        if cells is None:
            break
        if not any(cells):
            continue
        if not names:
            names = [name.strip() for name in cells]
            if problem := _header_problem(names):
                yield Problem(where, *problem)
                return
        elif len(cells) == len(names):
            yield dict(zip(names, map(cell, cells), strict=True))
        else:
            counted = f"{len(cells)} cell" + ("s" if len(cells) > 1 else "")
            message = f"the row has {counted}, but the first line names {len(names)} columns"
            hint = "put text that contains the delimiter or a line break in double quotes"
            yield Problem(where, message, hint)
    if not names:
        hint = "name the columns there: sku,photo,prompt"
        yield Problem(f"{called}:1", "the table has no first line with the columns' names", hint)


def _header_problem(names: Sequence[str]) -> tuple[str, str] | None:
    if empty := [str(number) for number, name in enumerate(names, 1) if not name]:
        return f"the first line names no column in cell {', '.join(empty)}", "name or remove it"
    if doubles := _doubles(names):
        return f"the first line repeats {doubles}", "give each column its own name"
    return None


def _doubles(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name, times in Counter(names).items() if times > 1)


def _json_row(line: str, where: str) -> Row | Problem:
    try:
        value = json.loads(line, object_pairs_hook=_distinct, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        message = f"the line is not JSON: {error.msg} (at its character {error.colno})"
        return Problem(where, message, "each line must be one complete object: {…}")
    except (ValueError, RecursionError) as error:
        return Problem(where, f"the line cannot be used: {error}")
    if not isinstance(value, dict):
        return Problem(where, "the line is not an object", 'write {"sku": "A1", …}')
    return value or Problem(where, "the object is empty")


def _distinct(pairs: list[tuple[str, Any]]) -> Row:
    if doubles := _doubles([key for key, _ in pairs]):
        raise ValueError(f"it names {doubles} twice")
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that JSON can represent")


def _parquet_rows(path: Path, called: str) -> Iterator[Row | Problem]:
    """Yield each row: dates as ISO texts, durations in seconds, decimals as numbers.

    Columns of bytes are left out and not read: no template can write them.
    """
    # Half a second and 60 MB that only such a table needs.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if doubles := _doubles(names):
                yield Problem(called, f"the table repeats the column {doubles}")
                return
            stored = [file.schema.column(number) for number in range(len(file.schema))]
            of_bytes = [f"{one.path}." for one in stored if _holds_bytes(one)]
            kept = [
                one for one in names if not any(path.startswith(f"{one}.") for path in of_bytes)
            ]
            for batch in file.iter_batches(_PARQUET_ROWS_AT_ONCE, columns=kept):
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    yield {name: _plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        yield Problem(called, f"the table cannot be read as Parquet: {reason}")


def _holds_bytes(stored: Any) -> bool:
    """Tell whether a stored column is neither text nor a number that is kept in bytes."""
    return "BYTE_ARRAY" in stored.physical_type and stored.logical_type.type == "NONE"


def _plain(value: Any) -> Any:
    """Return a value of Parquet as templates and JSON can carry it."""
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case None | bool() | int() | float() | str():
            # As pandas writes it where a number is missing.
            is_missing = isinstance(value, float) and not math.isfinite(value)
            return None if is_missing else value
        case timedelta():
            return value.total_seconds()
        case _:
            return value.isoformat() if isinstance(value, date | time) else str(value)
