"""A result on disk before anything is done with it: in sync mode it exists only in one answer."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyline.errors import BrokenAnswer
from comfyline.files import disk_full_told, sync_directory
from comfyline.job import JobState, MediaKind
from comfyline.runcomfy.transport import Response
from comfyline.runcomfy.wire import (
    RequestResult,
    RequestStatus,
    check_answer,
    names_status,
)

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


def read_cached_result(cache: Path, request_id: str) -> RequestResult | None:
    """Read the result that was written down; None when there is none, or not the whole of one."""
    try:
        answer = json.loads(cache.read_bytes())
        check_answer(answer, request_id)
        return RequestResult.read(answer)
    except (FileNotFoundError, ValueError, RecursionError, BrokenAnswer):
        return None


def keep_result(response: Response, cache: Path) -> RequestResult:
    """Read an answer, which is on the disk before where it holds an output. Blocking.

    Only a completed one is never asked for again; one with outputs in a state that nobody knows is
    kept beside it for a person. Raises `BrokenAnswer` when no status is in it, and `DiskFull`.
    """
    content = response.content
    if any(output_urls(content.get("output"))):
        state = RequestStatus.read(content).state if names_status(content) else None
        is_completed = state is JobState.COMPLETED
        _write(cache if is_completed else cache.with_suffix(".unread.json"), response.body)
    return RequestResult.read(content)


def _write(file: Path, body: bytes) -> None:
    """Write an answer so that no power cut loses it; half of one is no JSON, and never read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_told(file, len(body)):
        try:
            with file.open("wb") as opened:
                opened.write(body)
                opened.flush()
                os.fsync(opened.fileno())
        except OSError:
            # It would only take up the room of the next one.
            file.unlink(missing_ok=True)
            raise
    # Windows cannot sync a directory.
    with suppress(OSError):
        sync_directory(file.parent)
