"""The errors of a run told to a person: by kind, what they share said once, long lists cut."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from comfyline.report.format import one_line
from comfyline.report.summary import ErrorRecord

NAMED = 10
"""How many items of one kind of error are named before `and N more`."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """All errors of one kind: how many jobs, what happened to which items, what to do."""

    kind: str
    jobs: int
    lines: tuple[str, ...]
    hints: tuple[str, ...]


def troubles(errors: Iterable[ErrorRecord]) -> list[Trouble]:
    """Group the errors by kind, in the order in which each kind first came up."""
    kinds: defaultdict[str, list[ErrorRecord]] = defaultdict(list)
    for error in errors:
        kinds[error.kind].append(error)
    return [
        Trouble(
            kind,
            jobs=len(alike),
            lines=tuple(_lines(alike)),
            hints=tuple(dict.fromkeys(one_line(e.hint) for e in alike if e.hint))[:NAMED],
        )
        for kind, alike in kinds.items()
    ]


def _lines(alike: list[ErrorRecord]) -> Iterable[str]:
    messages = {one_line(error.message) for error in alike}
    named = [(one_line(error.item) or error.job, error) for error in alike[:NAMED]]
    more = f"and {len(alike) - NAMED:,} more" if len(alike) > NAMED else ""
    if len(messages) == 1:
        yield from _sentences(alike[0].message)
        yield " ".join(filter(None, [", ".join(name for name, _ in named), more]))
        return
    for name, error in named:
        first, *others = _sentences(error.message)
        yield f"{name}: {first}"
        yield from (f"    {other}" for other in others)
    if more:
        yield more


def _sentences(message: str) -> list[str]:
    """Put several mistakes of one job on a line each."""
    return [one_line(line) for line in message.splitlines() if line.strip()] or [""]
