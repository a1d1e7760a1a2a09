"""What a media file is, by its content and not by its name; how large, how long, whether whole."""

from comfyline.media.convert import (
    CONVERTIBLE,
    Bounds,
    Conversion,
    conversion_for,
    look_of_copy,
    too_many_pixels,
)
from comfyline.media.dimensions import dimensions
from comfyline.media.fetched import is_format, kind_of_format, prove_beginning, prove_whole
from comfyline.media.measures import Look
from comfyline.media.probe import examine, examined_by
from comfyline.media.types import (
    HEAD_BYTES,
    MOST_BYTES,
    SVG,
    TAKEN,
    extension,
    kind_of,
    media_type_of,
    media_type_of_name,
)

__all__ = [
    "CONVERTIBLE",
    "HEAD_BYTES",
    "MOST_BYTES",
    "SVG",
    "TAKEN",
    "Bounds",
    "Conversion",
    "Look",
    "conversion_for",
    "dimensions",
    "examine",
    "examined_by",
    "extension",
    "is_format",
    "kind_of",
    "kind_of_format",
    "look_of_copy",
    "media_type_of",
    "media_type_of_name",
    "prove_beginning",
    "prove_whole",
    "too_many_pixels",
]
