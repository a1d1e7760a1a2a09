"""`data:` URIs, decoded a piece at a time, wherever they stand.

One that came in an answer stays in the file in which the answer was written down: what travels is
where in that file it begins and ends.
"""

import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import unquote_to_bytes

_PIECE = 1024 * 1024
_LONGEST_HEAD = 1024
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class EmbeddedUri:
    """A `data:` URI in a file, from byte `start` up to `end`, as JSON writes it but for its `/`."""

    file: Path
    start: int
    end: int


def decode_data_uri(uri: str | EmbeddedUri) -> Iterator[bytes]:
    """Decode a `data:` URI with little memory. Raise `ValueError` for one that is malformed."""
    pieces = _of_file(uri) if isinstance(uri, EmbeddedUri) else _of_text(uri)
    start = b""
    while b"," not in start and len(start) < _LONGEST_HEAD and (piece := next(pieces, b"")):
        start += piece
    head, _, first = start.partition(b",")
    body = chain([first], pieces)
    is_base64 = head.lower().rstrip(_BLANKS).endswith(b";base64")
    yield from _base64(body) if is_base64 else _plain(body)


def _of_text(uri: str) -> Iterator[bytes]:
    for start in range(0, len(uri), _PIECE):
        yield uri[start : start + _PIECE].encode()


def _of_file(uri: EmbeddedUri) -> Iterator[bytes]:
    """Drop the backslash that JSON may put before a `/`; nothing else in it is escaped."""
    escape = b""
    with uri.file.open("rb") as file:
        file.seek(uri.start)
        left = uri.end - uri.start
        while left and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            piece = escape + piece
            escape = b"\\" if piece.endswith(b"\\") else b""
            yield piece[: len(piece) - len(escape)].replace(b"\\/", b"/")


def _base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decode groups of four characters; blanks between them are allowed by the URL standard."""
    rest, is_over = b"", False
    for piece in pieces:
        text = rest + piece.translate(None, _BLANKS)
        if text and is_over:
            raise ValueError
        whole = len(text) - len(text) % 4
        rest = text[whole:]
        is_over = text[:whole].endswith(b"=")
        yield binascii.a2b_base64(text[:whole], strict_mode=True)
    if rest:
        raise ValueError


def _plain(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decode percent forms, none of them cut in two."""
    rest = b""
    for piece in pieces:
        text = rest + piece
        cut = text.rfind(b"%", max(0, len(text) - 2))
        whole = cut if cut >= 0 else len(text)
        rest = text[whole:]
        yield unquote_to_bytes(text[:whole])
    yield unquote_to_bytes(rest)
