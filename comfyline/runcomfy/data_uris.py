"""`data:` URIs, decoded to a file a piece at a time, wherever they stand.

One that came in an answer stays in the file in which the answer was written down: what travels is
where in that file it begins and ends.
"""

import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import unquote_to_bytes

from comfyline.runcomfy.hosts import RefusedOutput
from comfyline.runcomfy.incoming import HEAD_BYTES, take

_PIECE = 1024 * 1024
_LONGEST_HEAD = 1024
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A `data:` URI in a file, from byte `start` up to `end`, as JSON writes it but for its `/`."""

    file: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a `data:` URI held, now in a file; `head` is how it begins."""

    sha256: str
    size: int
    head: bytes


def decode(uri: str | Embedded, part: Path, most_bytes: int) -> Decoded:
    """Writes the bytes of a `data:` URI to `part`, with little memory. Blocking.

    Raises `RefusedOutput` for one that is empty, malformed or larger than `most_bytes`.
    """
    pieces = _of_file(uri) if isinstance(uri, Embedded) else _of_text(uri)
    digest, size, head = hashlib.sha256(), 0, b""
    try:
        with part.open("wb") as file:
            for chunk in _decoded(pieces):
                size += len(chunk)
                if size > most_bytes:
                    raise RefusedOutput(f"An output's data: URI holds more than {most_bytes} bytes")
                head += chunk[: HEAD_BYTES - len(head)]
                take(chunk, digest, file)
    except ValueError as error:
        raise RefusedOutput("An output's data: URI is not valid base64") from error
    if not size:
        raise RefusedOutput("An output's data: URI is empty")
    return Decoded(digest.hexdigest(), size, head)


def _of_text(uri: str) -> Iterator[bytes]:
    for start in range(0, len(uri), _PIECE):
        yield uri[start : start + _PIECE].encode()


def _of_file(uri: Embedded) -> Iterator[bytes]:
    """JSON may put a backslash before a `/`, and nothing else in such a text is escaped."""
    escape = b""
    with uri.file.open("rb") as file:
        file.seek(uri.start)
        left = uri.end - uri.start
        while left and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            piece = escape + piece
            escape = b"\\" if piece.endswith(b"\\") else b""
            yield piece[: len(piece) - len(escape)].replace(b"\\/", b"/")


def _decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    start = b""
    while b"," not in start and len(start) < _LONGEST_HEAD and (piece := next(pieces, b"")):
        start += piece
    head, _, first = start.partition(b",")
    body = chain([first], pieces)
    return _base64(body) if head.lower().rstrip(_BLANKS).endswith(b";base64") else _plain(body)


def _base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Groups of four characters; blanks between them are allowed, as the URL standard has it."""
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
    """Percent forms, none of them cut in two."""
    rest = b""
    for piece in pieces:
        text = rest + piece
        cut = text.rfind(b"%", max(0, len(text) - 2))
        whole = cut if cut >= 0 else len(text)
        rest = text[whole:]
        yield unquote_to_bytes(text[:whole])
    yield unquote_to_bytes(rest)
