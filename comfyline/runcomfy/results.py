"""A result on disk before anything is done with it: in sync mode it exists only in one answer.

The media that such an answer carries stay where they were written down. What is parsed is the
answer with a short placeholder for each of them, so that a large one costs no memory.
"""

import asyncio
import json
import mmap
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from comfyline.errors import BrokenAnswer
from comfyline.job import JobState, MediaKind
from comfyline.runcomfy.data_uris import EmbeddedUri
from comfyline.runcomfy.transport import Places, Response
from comfyline.runcomfy.wire import (
    RequestResult,
    check_answer,
    names_status,
    read_result,
    read_status,
)

MOST_BYTES = 3 * 1024**3
"""The largest output there may be, as JSON writes it."""
MOST_TEXT = 64 * 2**20
"""The most of an answer that is read into memory: all but the media that stay in the file."""
_DIGITS = 20
SHORTEST_KEPT_APART = 4096
"""A `data:` URI below that may as well be read with the rest."""
_BEGINS = b'"data:'
_OTHER_ESCAPE = re.compile(rb"\\(?!/)")
_TYPE = re.compile(rb"data:[\w/+.-]{0,100}")
_KINDS: Mapping[str, MediaKind] = {"image": "image", "video": "video", "audio": "audio"}
_MEDIA_FIELD = re.compile(r"(image|video|audio)s?(_ur[il]s?)?")
# In `video: {url: …}` it is the field around it that says what this is.
_NAMES_NOTHING = {"url", "urls", "uri", "uris", "src", "href"}
_ADDRESSES = ("https://", "http://", "data:")


@dataclass(frozen=True, slots=True)
class NamedOutput:
    """One medium of a result: its URL or `data:` URI, and the kind that its field names, if any."""

    url: str
    kind: MediaKind | None


def named_outputs(output: Any) -> Iterator[NamedOutput]:
    """Yield every medium in a result's output, in order."""
    left: list[tuple[str, Any]] = [("", output)]
    while left:
        name, value = left.pop()
        match value:
            case str() if value[:8].lower().startswith(_ADDRESSES):
                found = _MEDIA_FIELD.fullmatch(name)
                yield NamedOutput(value, _KINDS[found[1]] if found else None)
            case Mapping():
                left.extend(
                    (name if key.lower() in _NAMES_NOTHING else key.lower(), part)
                    for key, part in reversed(list(value.items()))
                )
            case [*parts]:
                left.extend((name, part) for part in reversed(parts))


def output_urls(output: Any) -> Iterator[str]:
    """Yield the URL or `data:` URI of every medium in a result's output, in order."""
    return (one.url for one in named_outputs(output))


class TooLarge(BrokenAnswer):
    """An answer of more text than can be read; what came is on the disk, and not asked for again.

    In sync mode the second answer would be another one.
    """

    passing = False


async def write_answer(pieces: AsyncIterator[bytes], draft: Path, token: str) -> None:
    """Write an answer to a file as it comes in, without the token, until it is on the disk.

    Raises `BrokenAnswer` for one without end.
    """
    secret, tail, size = token.encode(), b"", 0
    with await asyncio.to_thread(_begin, draft) as file:
        async for piece in pieces:
            size += len(piece)
            if size > MOST_BYTES:
                raise BrokenAnswer(f"An answer from RunComfy is larger than {MOST_BYTES} bytes")
            # The token may stand across two pieces.
            text = (tail + piece).replace(secret, b"***")
            cut = max(0, len(text) - len(secret) + 1)
            tail = text[cut:]
            await asyncio.to_thread(file.write, text[:cut])
        await asyncio.to_thread(_finish, file, tail)


def _begin(draft: Path) -> IO[bytes]:
    draft.parent.mkdir(parents=True, exist_ok=True)
    return draft.open("wb")


def _finish(file: IO[bytes], tail: bytes) -> None:
    file.write(tail)
    file.flush()
    os.fsync(file.fileno())


def promised_size(length: str) -> int:
    """Read how many bytes of an answer there will be by its head, as far as one would be taken."""
    return min(int(length), MOST_BYTES) if length.isdecimal() and len(length) < _DIGITS else 0


def draft_path(cache: Path) -> Path:
    """Return where an answer is written at first; each time another file."""
    return cache.with_name(f"{cache.name}.{secrets.token_hex(4)}.part")


def extract_data_uris(file: Path) -> tuple[bytes, Places]:
    """Read an answer with placeholders for the media in it, and where those are. Blocking.

    Where JSON escapes more than a `/`, the URI stays in the text: right in any case, it only costs
    memory. Raises `TooLarge`.
    """
    kept: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    if not file.stat().st_size:
        return b"", places
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        done = at = 0
        # In JSON a quotation mark that no backslash precedes and these letters follow begins a
        # string: within one it would be escaped, and behind one no letters follow.
        while (at := text.find(_BEGINS, at)) >= 0:
            start = at + 1
            end = text.find(b'"', start)
            at = start
            if end - start < SHORTEST_KEPT_APART or text[max(0, start - 2) : start - 1] == b"\\":
                continue
            at = end
            if _OTHER_ESCAPE.search(text, start, end) is None:
                placeholder = _placeholder(text[start : start + SHORTEST_KEPT_APART], start, end)
                places[placeholder] = start, end
                kept += [text[done:start], placeholder.encode()]
                done = end
        if sum(map(len, kept)) + len(text) - done > MOST_TEXT:
            raise TooLarge(f"An answer from RunComfy has more than {MOST_TEXT >> 20} MB of text")
        kept.append(text[done:])
    return b"".join(kept), places


def read_cached_result(cache: Path, request_id: str) -> RequestResult | None:
    """Read the result that was written down; None when there is none that can be read."""
    if found := _read(cache, request_id):
        return found
    # Whoever wrote it may have been killed after its last byte and before its name.
    for part in cache.parent.glob(f"{cache.name}.*.part"):
        found = _read(part, request_id)
        if found and found.status.state is JobState.COMPLETED and any(output_urls(found.output)):
            with suppress(FileExistsError, FileNotFoundError):
                os.link(part, cache)
            return _read(cache, request_id)
    return None


def keep_result(response: Response, draft: Path, cache: Path) -> RequestResult:
    """Read an answer that was written to `draft`, which is kept where it holds an output.

    Kept before it is understood; only a completed one is never asked for again. Blocking. Raises
    `BrokenAnswer` when no status is in it.
    """
    state = read_status(response.content).state if names_status(response.content) else None
    target = cache if state is JobState.COMPLETED else unread_path(cache)
    if any(output_urls(response.content.get("output"))):
        rename_durably(draft, target)
    return read_result(response.content, _located(target, response.places))


def rename_durably(draft: Path, target: Path) -> None:
    """Give an answer that was written down its name, so that no power cut loses it."""
    draft.replace(target)
    # The new name lasts only when its directory is on disk; Windows has no such call.
    with suppress(OSError):
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def unread_path(cache: Path) -> Path:
    """Return where an answer is kept for a person that holds an output and no state one knows."""
    return cache.with_name(f"{cache.stem}.unread.json")


def _located(file: Path, places: Places) -> dict[str, EmbeddedUri]:
    """Locate the media of an answer in the file in which they lie, by their placeholders."""
    return {name: EmbeddedUri(file, start, end) for name, (start, end) in places.items()}


def _read(file: Path, request_id: str) -> RequestResult | None:
    try:
        text, places = extract_data_uris(file)
        answer = json.loads(text)
        check_answer(answer, request_id)
        return read_result(answer, _located(file, places))
    except (FileNotFoundError, ValueError, RecursionError, BrokenAnswer):
        return None


def _placeholder(beginning: bytes, start: int, end: int) -> str:
    """Still a `data:` URI with its type, for whoever tells outputs apart by that."""
    found = _TYPE.match(beginning)
    return f"{found[0].decode() if found else 'data:'};lies-at,{start}-{end}"
