"""One list of models out of three places: this project's files, what was kept, the catalogue."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from comfyline.models.entry import ModelEntry

Where = Literal["local", "cached", "catalogue"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and where its schema is taken from; the price is today's, or unknown."""

    entry: ModelEntry
    where: Where


def listing(
    local: Iterable[ModelEntry],
    kept: Iterable[ModelEntry],
    live: Iterable[ModelEntry],
    search: str | None = None,
    category: str | None = None,
) -> list[Listed]:
    """Every model once, ordered by id; what is local wins over what is kept.

    `search` is a text in the id, in whatever case; the catalogue has been searched already.
    """
    today = {entry.model_id: entry for entry in live}
    found: dict[str, Listed] = {}
    here: tuple[tuple[Where, Iterable[ModelEntry]], ...] = (("local", local), ("cached", kept))
    for where, entries in here:
        for entry in entries:
            if not _fits(entry, search, category):
                continue
            priced = today.get(entry.model_id)
            # A file's price is that of the day on which it was written.
            shown = entry.priced_like(priced) if priced else entry.without_price()
            found.setdefault(entry.model_id, Listed(shown, where))
    for entry in today.values():
        found.setdefault(entry.model_id, Listed(entry, "catalogue"))
    return [found[model_id] for model_id in sorted(found)]


def _fits(entry: ModelEntry, search: str | None, category: str | None) -> bool:
    is_named = not search or search.lower() in entry.model_id.lower()
    return is_named and (not category or category in entry.categories)
