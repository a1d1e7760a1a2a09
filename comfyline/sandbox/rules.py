"""The `validations` of a media field: a rule, a number, and the sentence for who breaks it.

A rule names a fact about the file and how it compares: `file_size_mb<`, `width/height>`. What is
not understood cannot be judged, and so forbids nothing.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_MEGABYTE = 1024 * 1024
_RULE = re.compile(r"([a-z_*/]+?)\s*(<=|>=|<|>)", re.IGNORECASE)
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `validations` that is understood."""

    fact: str
    comparison: str
    bound: float
    sentence: str

    def is_broken_by(self, facts: Mapping[str, float]) -> bool:
        """Tell whether a file with these facts breaks the rule; a fact it lacks cannot."""
        known = facts.get(self.fact)
        return known is not None and not _HOLDS[self.comparison](known, self.bound)


@dataclass(frozen=True, slots=True)
class Measures:
    """What a media file measures; None is what its kind does not have."""

    size_bytes: int
    width: int | None = None
    height: int | None = None
    seconds: float | None = None

    def facts(self) -> dict[str, float]:
        """Return the facts under every name that a rule can call them by."""
        found = {
            "file_size_mb": self.size_bytes / _MEGABYTE,
            "file_size_kb": self.size_bytes / 1024,
        }
        if self.width and self.height:
            found |= {"width_pixels": self.width, "height_pixels": self.height}
            found |= {"width": self.width, "height": self.height}
            found |= {"width/height": self.width / self.height}
            found |= {"height/width": self.height / self.width}
            found |= {"width*height": self.width * self.height}
        if self.seconds is not None:
            names = ("duration", "duration_s", "duration_seconds", "seconds")
            found |= dict.fromkeys(names, self.seconds)
        return found


def read_rules(validations: Any) -> tuple[Rule, ...]:
    """Read the rules of a field, in their order."""
    entries = validations if isinstance(validations, list) else []
    return tuple(rule for entry in entries if (rule := _read(entry)) is not None)


def broken_rule(rules: Iterable[Rule], measures: Measures) -> str | None:
    """Return the sentence of the first rule that a file breaks, None when it keeps them all."""
    facts = measures.facts()
    return next((rule.sentence for rule in rules if rule.is_broken_by(facts)), None)


def _read(entry: Any) -> Rule | None:
    if not isinstance(entry, Mapping):
        return None
    written = _RULE.fullmatch(str(entry.get("validation_rule", "")).strip())
    bound = entry.get("validation_value")
    if written is None or isinstance(bound, bool) or not isinstance(bound, int | float):
        return None
    sentence = str(entry.get("validation_error") or f"must be {written[0]} {bound:g}")
    return Rule(written[1].lower(), written[2], float(bound), sentence)
