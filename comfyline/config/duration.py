"""Lengths of time as people write them: `30m`, `90s`, `6h`, `1h30m`, or plain seconds."""

import re
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from comfyline.errors import UsageError

_PATTERN = r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
_DURATION = re.compile(_PATTERN, re.ASCII)
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def parse_duration(value: Any) -> float:
    """Turn `1h30m`, or a number of seconds, into seconds; raise ValueError with a sentence."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    written = value.strip() if isinstance(value, str) else ""
    match = _DURATION.fullmatch(written)
    if not written or match is None:
        raise ValueError("should be a duration such as 90s, 30m, 6h or 1h30m")
    # Decimal keeps what was written exact until the very end.
    parts = zip(match.groups(), _UNITS, strict=True)
    return float(sum(Decimal(count) * length for count, (_, length) in parts if count))


def format_duration(seconds: float) -> str:
    """Write seconds so that `parse_duration` gives the same number back: 5400 is `1h30m`."""
    rest = Decimal(repr(float(seconds)))
    written = ""
    for unit, length in _UNITS[:-1]:
        count, rest = divmod(rest, length)
        written += f"{count:f}{unit}" if count else ""
    if rest or not written:
        written += f"{rest.normalize():f}s"
    return written


def parse_moment(written: str, now: datetime) -> datetime:
    """Read a time as people write it, in UTC, or how long ago it was. Raises `UsageError`."""
    with suppress(ValueError, OverflowError):
        return now - timedelta(seconds=parse_duration(written))
    try:
        read = datetime.fromisoformat(written)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"Not a duration or a date: {written!r}",
            hint="Use 7d, 12h, 2026-11-22 or 2026-11-22T18:00 (UTC).",
        ) from None


Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0, allow_inf_nan=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_PATTERN}$", "examples": ["30m", "6h", "1h30m"]},
                {"type": "number", "exclusiveMinimum": 0},
            ]
        }
    ),
]
"""The type of a duration in a document: written as above, read as seconds."""


def seconds_awake_or_asleep() -> float:
    """Return seconds on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
