"""A result on disk before anything is done with it: in sync mode it exists only in one answer."""

import json
import os
from contextlib import suppress
from pathlib import Path

from comfyline.atomic import part_path
from comfyline.errors import BrokenAnswer
from comfyline.runcomfy.wire import RequestResult, read_result


def read_spool(spool: Path) -> RequestResult | None:
    """The result that was written down; None when there is none, or none that can be read."""
    try:
        return read_result(json.loads(spool.read_bytes()))
    except (FileNotFoundError, ValueError, RecursionError, BrokenAnswer):
        return None


def write_spool(spool: Path, answer: bytes) -> None:
    """Writes an answer down as it came, so that no killed process and no power cut loses it."""
    spool.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be fetching the same result: each writes a part of its own.
    part = part_path(spool)
    with part.open("wb") as file:
        file.write(answer)
        file.flush()
        os.fsync(file.fileno())
    part.replace(spool)
    # The new name lasts only when its directory is on disk; Windows has no such call.
    with suppress(OSError):
        directory = os.open(spool.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def unread(spool: Path) -> Path:
    """Where an answer is kept for a person that holds an output and no state one knows."""
    return spool.with_name(f"{spool.stem}.unread.json")
