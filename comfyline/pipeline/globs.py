"""Match patterns of files and objects: where to look, what fits, and in which order.

Objects fit a pattern as files do: `*` stays within a folder, `**` goes through all below, and
neither finds what begins with a dot.
"""

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import takewhile

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_RECURSIVE = "**"


def alternatives(pattern: str) -> list[str]:
    """Spell `*.{jpg,png}` out as `*.jpg` and `*.png`, which Python's glob does not know."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    choices = match[1].split(",")
    return [spelt for choice in choices for spelt in alternatives(head + choice + tail)]


def is_plain(pattern: str) -> bool:
    """Tell whether a pattern names one file outright."""
    return not _BRACES.search(pattern) and not glob.has_magic(pattern)


def prefixes(patterns: Sequence[str]) -> list[str]:
    """Return what all names begin with that fit a pattern: as few and as long as can be told.

    No prefix begins with another, so that nothing is listed twice.
    """
    literal = sorted({_literal(pattern) for pattern in patterns})
    kept: list[str] = []
    for one in literal:
        if not kept or not one.startswith(kept[-1]):
            kept.append(one)
    return kept


def fits(pattern: str, name: str) -> bool:
    """Tell whether a name with `/` between its folders fits a pattern without braces."""
    return _fits(pattern.split("/"), name.split("/"))


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Order `photo-2` before `photo-10`; the name itself settles every tie."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(1, int(p), "") if _is_number(p) else (0, 0, p) for p in parts], name


def _is_number(part: str) -> bool:
    # Python reads no number of thousands of digits.
    return part.isdecimal() and len(part) < 1000  # noqa: PLR2004


def _literal(pattern: str) -> str:
    return "".join(takewhile(lambda sign: not glob.has_magic(sign), pattern))


def _fits(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == _RECURSIVE:
        if rest[:1] == [_RECURSIVE]:
            return _fits(rest, name)
        if not rest:
            return bool(name) and not _hides(name)
        skipped = [0, *(n for n in range(1, len(name) + 1) if not _hides(name[:n]))]
        return any(_fits(rest, name[number:]) for number in skipped)
    return bool(name) and _fits_one(first, name[0]) and _fits(rest, name[1:])


def _fits_one(pattern: str, name: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatchcase(name, pattern)


def _hides(folders: Sequence[str]) -> bool:
    return any(folder.startswith(".") for folder in folders)
