"""Bare words and numbers as YAML 1.2 reads them, and what to tell a person who expected another.

YAML 1.1 made `1:1` the number 61, `yes` true and `010` eight. Here the first two are text; a number
that begins with a zero is refused, because nobody can tell which of the three was meant.
"""

import math
import re
from typing import Any

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"([-+]?)0+([0-9].*)", re.ASCII)
_GROUPED = re.compile(r"[-+]?[0-9]+((_[0-9]+)+|([,' ][0-9]{3})+)(\.[0-9]+)?", re.ASCII)
_SEPARATOR = re.compile(r"[_,' ]")
_SIXTIES = re.compile(r"[0-9]+(:[0-9]{1,2})+(\.[0-9]+)?", re.ASCII)
_WORDS = {"": None, "~": None} | {
    spelt: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelt in (word, word.capitalize(), word.upper())
}
_TRUTHS = {"true": True, "yes": True, "on": True, "y": True} | {
    "false": False,
    "no": False,
    "off": False,
    "n": False,
}
_NOTHINGS = {"none", "nil", "null", "~", "nothing"}
_LONGEST = 40
"""The longest text that is repeated in a message."""


class OddScalar(ValueError):
    """A bare word that is no value that JSON can carry, or no clear one; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def core_value(text: str) -> Any:
    """Reads a plain scalar as YAML 1.2's core schema does; what is nothing else is text.

    Raises `OddScalar` for infinity, for what is no number, and for a number with a leading zero.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_integer = _INTEGER.fullmatch(text)
    if (is_integer or _NUMBER.fullmatch(text)) and (zero := _LEADING_ZERO.fullmatch(text)):
        raise OddScalar(
            f"{text:.20} is a number with a leading zero, which YAML reads in several ways",
            f'write "{text:.20}" in quotes for a text, or {zero[1]}{zero[2]:.20} for a number',
        )
    if is_integer:
        return _whole(text)
    if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        number = float(text.replace(".", "", 1) if text[-1].isalpha() else text)
        if not math.isfinite(number):
            raise OddScalar(f"{text:.20} is not a number that JSON can carry")
        return number
    return text


def _whole(text: str) -> int:
    try:
        number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        str(number)
    except ValueError:  # more digits than Python writes
        raise OddScalar(f"{text:.20} is not a number that JSON can carry") from None
    return number


def in_words(value: Any) -> str:
    """A value in words: `a number (3)`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"a number ({value})" if abs(value) < 1e15 else "a number"  # noqa: PLR2004
        case str():
            return f"the text {value!r}" if len(value) <= _LONGEST else "a text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def as_truth(text: str) -> str:
    """The hint for a text where true or false is due: `yes`, `Off`, `"true"`."""
    truth = _TRUTHS.get(text.strip().lower())
    if truth is None:
        return ""
    written = "true" if truth else "false"
    if text.strip().lower() == written:
        return f"write it without quotes: `{written}`"
    return f"write `{written}`: {text.strip()} is a text in YAML 1.2"


def as_number(text: str) -> str:
    """The hint for a text where a number is due: `1_000`, `12:30`, `"3"`, `none`."""
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped) or _NUMBER.fullmatch(stripped):
        return f"write it without quotes: `{stripped}`"
    if _GROUPED.fullmatch(stripped):
        return f"write `{_SEPARATOR.sub('', stripped)}`, without separators"
    if _SIXTIES.fullmatch(stripped):
        return (
            f"{stripped} is a text in YAML 1.2, and no number in sixties; write the number itself"
        )
    return "leave it out" if stripped.lower() in _NOTHINGS else ""


def as_text(value: Any, spelt: str | None) -> str:
    """The hint for a bare number, true or null where a text is due; `spelt` is what was written."""
    if isinstance(value, bool) or value is None:
        return f'write it in quotes: `"{spelt}"`' if spelt else "write it in quotes"
    written = spelt or (str(value) if abs(value) < 1e15 else "")  # noqa: PLR2004  # in_words' limit
    if not written:
        return "write it in quotes"
    is_other = f": YAML reads {written} as the number {value}" if spelt else ""
    return f'write it in quotes: `"{written}"`{is_other}'
