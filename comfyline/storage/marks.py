"""A signed parameter of a presigned address by which the access log tells it from all others.

S3 ignores parameters that begin with `x-`, signs them with the rest, and logs them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

MARK = "x-comfyline-mark"
_mark: ContextVar[str] = ContextVar("comfyline_mark", default="")


@contextmanager
def marked_with(mark: str) -> Iterator[None]:
    """Lets what is presigned inside the block carry a mark; an empty one is none."""
    token = _mark.set(mark)
    try:
        yield
    finally:
        _mark.reset(token)


def add_mark(request: Any, **_: Any) -> None:
    """Adds the mark in force to a request that is about to be signed, as botocore's event calls."""
    if mark := _mark.get():
        request.url += f"{'&' if '?' in request.url else '?'}{MARK}={quote(mark)}"
