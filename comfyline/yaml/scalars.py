"""Bare words and numbers as YAML 1.2 reads them, and what to tell a person who expected another.

YAML 1.1 made `1:1` the number 61, `yes` true and `010` eight. Here the first two are text; a number
that begins with a zero is refused, because nobody can tell which of the three was meant.
"""

import math
import re
from collections.abc import Collection
from typing import Any

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"([-+]?)0+([0-9].*)", re.ASCII)
_GROUPED = re.compile(r"[-+]?[0-9]+((_[0-9]+)+|([,' ][0-9]{3})+)(\.[0-9]+)?", re.ASCII)
_FRACTION = re.compile(r"-?[0-9]*\.[0-9]*", re.ASCII)
_WITH_UNIT = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s?[a-z]{1,8}", re.ASCII | re.IGNORECASE)
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
_EXACT = 1e15
"""A float counts exactly so far."""


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


def how_to_write(value: Any, wanted: Collection[str]) -> str:
    """Return the hint for a value of a wrong kind, such as `"2"` for a number; empty if unknown.

    `wanted` is what is due, as messages say it: `a number`, `true or false`.
    """
    match value:
        case None:
            return "leave it out"
        case str():
            hint = _from_text(value.strip(), wanted)
        case bool() | int() | float():
            hint = _from_number(value, wanted)
        case _:
            hint = ""
    if hint or "a list" not in wanted or isinstance(value, dict):
        return hint
    is_short = isinstance(value, str) and len(value) <= _LONGEST
    return f"write it as a list: `[{value.strip() if is_short else '…'}]`"


def _from_number(value: float, wanted: Collection[str]) -> str:
    if "text" in wanted:
        return "write it in quotes"
    if isinstance(value, float) and "a whole number" in wanted and abs(value) < _EXACT:
        return f"did you mean `{round(value)}`?"
    if value in (0, 1) and not isinstance(value, bool) and "true or false" in wanted:
        return f"did you mean `{'true' if value else 'false'}`?"
    return ""


def _from_text(text: str, wanted: Collection[str]) -> str:
    truth = _TRUTHS.get(text.lower())
    if "true or false" in wanted and truth:
        is_same = text.lower() == truth
        return (
            f"write it without quotes: `{truth}`"
            if is_same
            else f"write `{truth}`: {text} is a text in YAML 1.2"
        )
    if "a number" not in wanted and ("a whole number" not in wanted or _FRACTION.fullmatch(text)):
        return ""
    if _INTEGER.fullmatch(text) or _NUMBER.fullmatch(text):
        return f"write it without quotes: `{text}`"
    if _GROUPED.fullmatch(text):
        return f"write `{_SEPARATOR.sub('', text)}`, without separators"
    if number := _WITH_UNIT.fullmatch(text):
        return f"did you mean `{number[1]}`?"
    return "leave it out" if text.lower() in _NOTHINGS else ""
