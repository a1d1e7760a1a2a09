"""The whole public catalogue, page by page, however a server cuts its pages."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comfyline.errors import BrokenAnswer
from comfyline.runcomfy.wire import Page

_ASKED = 100
"""Models a page; a server may send fewer."""

_MOST_PAGES = 1000


async def list_all(ask: Callable[[int, int], Awaitable[Page]]) -> list[Mapping[str, Any]]:
    """Every entry once, in the order of the catalogue; `ask` takes limit and offset.

    Ends with a page that brings nothing new: an empty one, or the same again from a server that
    ignores `offset`. Raises `BrokenAnswer` for a catalogue without an end.
    """
    found: dict[str, Mapping[str, Any]] = {}
    seen = longest = 0
    for _ in range(_MOST_PAGES):
        page = await ask(_ASKED, seen)
        new = {name: entry for name, entry in page.entries.items() if name not in found}
        found |= new
        seen += page.length
        if not new or _is_last(page, longest):
            return list(found.values())
        longest = max(longest, page.length)
    raise BrokenAnswer(f"RunComfy's catalogue has no end: {_MOST_PAGES} pages were not enough")


def _is_last(page: Page, longest: int) -> bool:
    """Whether a page ends the list; `longest` is the length of the longest one before it.

    A first page shorter than asked for may be all that there is, or all that the server gives at a
    time. Only `total` tells, and without it one more page is asked for.
    """
    if longest:
        return page.length < longest
    return page.length < _ASKED and page.total is not None and page.length >= page.total
