"""How large and how long an output is, from its first bytes: it was proved to be whole already."""

from contextlib import suppress
from pathlib import Path

from PIL import ExifTags, Image

from comfyline.media.measures import Look
from comfyline.media.pictures import learn
from comfyline.media.streams import look_at_stream
from comfyline.media.types import kind_of

_SIDEWAYS = {5, 6, 7, 8}


def dimensions(path: Path, media_type: str) -> Look:
    """Width and height in pixels as a viewer sees them, duration in seconds; None where unknown.

    Raises nothing: what cannot be told is no reason not to store what was paid for. Blocking.
    """
    with suppress(Exception):
        if kind_of(media_type) == "image":
            return _of_picture(path, media_type)
        with path.open("rb") as file:
            return look_at_stream(file, media_type)
    return Look(media_type)


def _of_picture(path: Path, media_type: str) -> Look:
    learn(media_type)
    with Image.open(path) as picture:
        width, height = picture.size
        if picture.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
            width, height = height, width
    return Look(media_type, width, height)
