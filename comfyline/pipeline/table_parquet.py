"""Parquet: its columns as templates and JSON can carry them."""

import math
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from comfyline.errors import Problem

_ROWS_AT_ONCE = 1000


def parquet_rows(path: Path, called: str) -> Iterator[dict[str, Any] | Problem]:
    """Gives each row: dates as ISO texts, durations in seconds, decimals as numbers.

    Columns of bytes are left out and not read: no template can write them. Raises `OSError`.
    """
    # Half a second and 60 MB that only such a table needs.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            doubles = [name for name, times in Counter(schema.names).items() if times > 1]
            if doubles:
                told = ", ".join(f"`{name}`" for name in doubles)
                yield Problem(called, f"the table has {told} more than once")
                return
            kept = [field.name for field in schema if not _holds_bytes(field.type)]
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=kept):
                for row in batch.to_pylist():
                    yield {name: _plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        yield Problem(called, f"the table cannot be read as Parquet: {reason}")


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if kinds.is_nested(kind):
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return bool(
        kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(inner, tuple) for inner in value):
            # How a map comes: pairs of a key and a value.
            return {str(key): _plain(inner) for key, inner in value}
        return [_plain(inner) for inner in value]
    return _scalar(value)


def _scalar(value: Any) -> str | int | float | None:
    match value:
        case Decimal() | float() if not math.isfinite(value):
            return None  # As pandas writes it where a number is missing.
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            return str(value)
