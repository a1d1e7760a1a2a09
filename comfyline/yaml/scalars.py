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
_WORDS = {"": None, "~": None} | {
    spelt: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelt in (word, word.capitalize(), word.upper())
}
_TRUTHS = dict.fromkeys(("true", "yes", "on", "y"), "true")
_TRUTHS |= dict.fromkeys(("false", "no", "off", "n"), "false")
_NOTHINGS = {"none", "nil", "null", "~", "nothing"}
_LONGEST = 40
"""The longest text that is repeated in a message."""


class OddScalar(Exception):
    """A bare word that is no value that JSON can carry, or no clear one; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def core_value(text: str) -> Any:
    """Read a plain scalar as YAML 1.2's core schema does; what is nothing else is text.

    Raises `OddScalar` for infinity, for what is no number, and for a number with a leading zero.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_integer, is_number = _INTEGER.fullmatch(text), _NUMBER.fullmatch(text)
    if (is_integer or is_number) and (zero := _LEADING_ZERO.fullmatch(text)):
        raise OddScalar(
            f"{text:.20} is a number with a leading zero, which YAML reads in several ways",
            f'write "{text:.20}" in quotes for a text, or {zero[1]}{zero[2]:.20} for a number',
        )
    too_much = OddScalar(f"{text:.20} is not a number that JSON can represent")
    if is_integer:
        try:
            number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            str(number)
        except ValueError:  # more digits than Python writes
            raise too_much from None
        return number
    if _NOT_FINITE.fullmatch(text) or (is_number and not math.isfinite(float(text))):
        raise too_much
    return float(text) if is_number else text


def in_words(value: Any) -> str:
    """Return a value in words: `a number (3)`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"a number ({value!s:.20})"
        case str():
            return f"the text {value!r}" if len(value) <= _LONGEST else "a text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def as_truth(text: str) -> str:
    """Return the hint for a text where true or false is due: `yes`, `Off`, `"true"`."""
    stripped = text.strip()
    truth = _TRUTHS.get(stripped.lower())
    if truth is None:
        return ""
    if stripped.lower() == truth:
        return f"write it without quotes: `{truth}`"
    return f"write `{truth}`: {stripped} is a text in YAML 1.2"


def as_number(text: str) -> str:
    """Return the hint for a text where a number is due: `1_000`, `"3"`, `none`."""
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped) or _NUMBER.fullmatch(stripped):
        return f"write it without quotes: `{stripped}`"
    if _GROUPED.fullmatch(stripped):
        return f"write `{_SEPARATOR.sub('', stripped)}`, without separators"
    return "leave it out" if stripped.lower() in _NOTHINGS else ""
