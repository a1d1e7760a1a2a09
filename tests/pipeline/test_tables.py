"""Tables as people write them, and what is said of those that cannot be read."""

import contextlib
import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.pipeline.tables import cell, read_table

WHERE = "p.yaml:4:10"


def rows_of(folder: Path, content: str | bytes, called: str = "briefs.csv") -> list[dict[str, Any]]:
    path = folder / "table"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, called, WHERE)


def mistakes(folder: Path, content: str | bytes, called: str = "briefs.csv") -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        rows_of(folder, content, called)
    return [f"{one.where}: {one.message}; {one.hint}" for one in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7), ("0", 0), ("1.5", 1.5), ("true", True), ("FALSE", False), ("", None),
        *((text, text) for text in ("007", "-0", "1e5", " 7", "٣", "2026-01-31", "1" * 16)),
    ],
)  # fmt: skip
def test_each_cell_of_csv_means_the_same_in_every_table(text: str, value: Any) -> None:
    read = cell(text)

    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_as_spreadsheets_save_it(tmp_path: Path, delimiter: str) -> None:
    rows = [["sku", " alt text "], ["A", 'one, two; "three"\nfour'], ["", ""], ["B", "ü"]]
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows(rows)

    assert rows_of(tmp_path, b"\xef\xbb\xbf" + written.getvalue().encode()) == [
        {"sku": "A", "alt text": 'one, two; "three"\nfour'},
        {"sku": "B", "alt text": "ü"},
    ]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('"size, in cm, or m";price\n1;2\n', {"size, in cm, or m": 1, "price": 2}),
        ('"a;b;c",d\n1,2\n', {"a;b;c": 1, "d": 2}),
        ('"name, first"\tage\n1\t2\n', {"name, first": 1, "age": 2}),
        ('\n"two, or\nthree";lines\n1;2\n', {"two, or\nthree": 1, "lines": 2}),
        ("old,Mac\r1,2\r", {"old": 1, "Mac": 2}),
    ],
)
def test_a_delimiter_within_quotes_is_none(
    tmp_path: Path, content: str, row: dict[str, Any]
) -> None:
    assert rows_of(tmp_path, content) == [row]


def test_all_rows_of_csv_that_do_not_fit_are_told_at_their_lines(tmp_path: Path) -> None:
    told = mistakes(tmp_path, 'a,b\n1,"2\n3"\n4\n\n5,6,7\n' + "1\n" * 1234)

    assert [one.partition(";")[0] for one in told[:2]] == [
        "briefs.csv:4: the row has 1 cell, but the first line names 2 columns",
        "briefs.csv:6: the row has 3 cells, but the first line names 2 columns",
    ]
    assert told[20].startswith("briefs.csv: and 1,216 more mistakes like these")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "briefs.csv:1: the table has no first line with the columns' names"),
        ("a,,b,\n", "briefs.csv:1: the first line names no column in cell 2, 4"),
        ("\na,b,a\n", "briefs.csv:2: the first line repeats `a`"),
        ('a,b\n1,"2\n', "briefs.csv:2: cannot be read as CSV: unexpected end of data; a double"),
        ('a,b\n1,"2"3\n', "briefs.csv:2: cannot be read as CSV: ',' expected after '\"'; a double"),
        (b"a,b\n1,\xe9\n", "briefs.csv:2: the file is not UTF-8 text; save it in"),
    ],
)
def test_csv_that_cannot_be_read_says_why(tmp_path: Path, content: str | bytes, told: str) -> None:
    assert mistakes(tmp_path, content)[0].startswith(told)


@pytest.mark.parametrize(
    ("called", "content", "told"),
    [
        ("b.csv", b"PK\x03\x04....", "b.csv is not CSV, but an Excel or another zipped file; save"),
        ("b.csv", gzip.compress(b"a", mtime=0), "b.csv is not CSV, but compressed with gzip; unp"),
        ("b.csv", "a,b\n1,2\n".encode("utf-16"), "b.csv is not CSV, but text in UTF-16; save it"),
        ("b.csv", b"PAR1....", "b.csv is not CSV, but Parquet; call it .parquet"),
        ("b.csv", b'{"sku": 1}\n', "b.csv is not CSV, but JSON; write one object a line and call"),
        ("b.jsonl", b'[{"sku": 1}]', "b.jsonl is not JSON lines, but a JSON list; write one"),
        ("b.parquet", b"a,b\n", "b.parquet is not Parquet, but something else"),
        ("b.json", b"{}", "unsupported table format: b.json (supported: .csv, .tsv, .jsonl, .ndjs"),
        ("briefs", b"a,b\n", "unsupported table format: briefs"),
    ],
)
def test_what_is_another_format_says_which(
    tmp_path: Path, called: str, content: bytes, told: str
) -> None:
    assert mistakes(tmp_path, content, called)[0].startswith(f"{WHERE}: {told}")


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    row = {"sku": "007", "n": 2, "f": 1.0, "on": False, "none": None, "in": {"list": [1, "x"]}}
    content = "\ufeff" + json.dumps(row) + "\n\n" + json.dumps(row)

    assert rows_of(tmp_path, content, "briefs.jsonl") == [row, row]
    assert rows_of(tmp_path, "", "briefs.ndjson") == []


def test_all_lines_of_json_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    lines = ["{}", "[1]", '{"a" 1}', '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1}', "[" * 9999]
    told = mistakes(tmp_path, "\n".join(lines), "b.jsonl")

    assert [one.partition(";")[0] for one in told][:5] == [
        "b.jsonl:1: the object is empty",
        "b.jsonl:2: the line is not an object",
        "b.jsonl:3: the line is not JSON: Expecting ':' delimiter (at its character 6)",
        "b.jsonl:4: the line cannot be used: it names `a` twice",
        "b.jsonl:5: the line cannot be used: NaN is not a number that JSON can represent",
    ]
    assert [one.split(": ")[0] for one in told[5:]] == ["b.jsonl:7"]


def test_parquet_keeps_what_json_can_carry(tmp_path: Path) -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    columns: dict[str, tuple[Any, Any]] = {
        "sku": (pa.array(["007", None]), "007"),
        "flat.path": (pa.array(["a", None]), "a"),
        "n": (pa.array([2, None]), 2),
        "f": (pa.array([1.5, float("nan")]), 1.5),
        "on": (pa.array([True, None]), True),
        "day": (pa.array([date(2026, 1, 31), None]), "2026-01-31"),
        "at": (pa.array([noon, None]), "2026-01-31T12:00:00+00:00"),
        "clock": (pa.array([time(12, 30), None]), "12:30:00"),
        "lasts": (pa.array([timedelta(minutes=1), None]), 60.0),
        "price": (pa.array([Decimal("19.90"), None]), 19.9),
        "whole": (pa.array([Decimal("20.00"), None]), 20),
        "in": (pa.array([{"list": [1, 2]}, None]), {"list": [1, 2]}),
        "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        "sort": (pa.array(["a", None]).dictionary_encode(), "a"),
    }
    # No template can write them.
    of_bytes = {
        "image": pa.array([{"bytes": b"\xff", "path": "a"}] * 2),
        "raw": pa.array([b"x"] * 2),
        "flat.bytes": pa.array([b"x"] * 2),
    }
    written = {name: array for name, (array, _) in columns.items()} | of_bytes
    pq.write_table(pa.table(written), tmp_path / "made.parquet")

    rows = rows_of(tmp_path, (tmp_path / "made.parquet").read_bytes(), "briefs.parquet")

    assert rows == [{name: value for name, (_, value) in columns.items()}, dict.fromkeys(columns)]
    assert json.loads(json.dumps(rows)) == rows


def test_broken_parquet_says_so(tmp_path: Path) -> None:
    [told] = mistakes(tmp_path, b"PAR1 and nothing else", "b.parquet")

    assert told.startswith("b.parquet: the table cannot be read as Parquet: ")


@pytest.mark.parametrize("called", ["b.csv", "b.jsonl", "b.parquet"])
@given(content=st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_rows_or_mistakes(
    tmp_path_factory: pytest.TempPathFactory, called: str, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(InputInvalid):
        assert all(rows_of(folder, content, called))
