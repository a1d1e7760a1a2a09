"""Labels: whose a job is and what it is for, such as client, campaign, SKU; no part of its key."""

import re
from collections.abc import Mapping

from comfyline.errors import InputInvalid, Problem
from comfyline.redact import without_secrets

LABEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
_LONGEST = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What controls a terminal, begins a line, or turns the direction of what follows."""


def label_name(name: str) -> str:
    """Return the name. Raises `ValueError` for one that no column or metric could have."""
    if not LABEL_NAME.fullmatch(name):
        raise ValueError("should be a to z, digits and `_` only, and begin with a letter")
    return name


def label_value(text: str) -> str:
    """Return a value as it is kept: on one line, without secrets. Raises `ValueError`."""
    # A file name that is not UTF-8 may be in it, which no database and no metric takes.
    value = without_secrets(text.strip()).encode("utf-8", "backslashreplace").decode()
    if len(value) > _LONGEST:
        raise ValueError(f"a label has at most {_LONGEST} characters, this one {len(value)}")
    if _CONTROL.search(value):
        raise ValueError("a label is one line, without control characters")
    return value


def check_labels(given: Mapping[str, str]) -> dict[str, str]:
    """Return labels by name, sorted. Raises `InputInvalid` with every mistake."""
    labels, problems = {}, []
    for name, text in sorted(given.items()):
        try:
            labels[label_name(name)] = label_value(text)
        except ValueError as error:
            problems.append(Problem(f"labels.{name}", str(error)))
    if problems:
        raise InputInvalid(problems)
    return {name: value for name, value in labels.items() if value}
