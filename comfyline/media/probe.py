"""A media file, opened: the one way in for pictures, videos and sounds alike."""

from functools import lru_cache
from importlib.metadata import version
from typing import BinaryIO

from comfyline.media.containers import is_cut_short
from comfyline.media.measures import Look
from comfyline.media.pictures import look_at_picture
from comfyline.media.streams import look_at_stream
from comfyline.media.types import HEAD_BYTES, kind_of

_VERSION = 2
"""Counts up whenever the same bytes may be judged otherwise."""


def examine(file: BinaryIO, media_type: str) -> Look:
    """What a media file of this type shows, and whether it is whole.

    Broken bytes raise nothing: they are the look's `flaw`. Raises `OSError` when the file itself
    cannot be read. Blocking, and a second's work for a large file: call it in a thread.
    """
    file.seek(0)
    if is_cut_short(file, file.read(HEAD_BYTES)):
        return Look(media_type, flaw="is cut short: it says itself that it is longer")
    match kind_of(media_type):
        case "image":
            return look_at_picture(file, media_type)
        case "video" | "audio":
            return look_at_stream(file, media_type)
        case _:
            return Look(media_type)


@lru_cache(maxsize=1)
def examined_by() -> str:
    """Names what judges: what another one remembers of a file is worth nothing here."""
    judges = ("pillow", "pillow-heif", "av")
    return " ".join([f"{_VERSION}", *(f"{name}-{version(name)}" for name in judges)])
