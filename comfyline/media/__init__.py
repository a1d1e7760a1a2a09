"""What a media file is, by its content and not by its name; how large, how long, whether whole."""

from comfyline.media.fetched import prove_whole
from comfyline.media.kinds import (
    HEAD_BYTES,
    MOST_BYTES,
    extension,
    kind_of,
    media_type_of,
    media_type_of_name,
)
from comfyline.media.looking import examine, examined_by
from comfyline.media.measures import Look

__all__ = [
    "HEAD_BYTES",
    "MOST_BYTES",
    "Look",
    "examine",
    "examined_by",
    "extension",
    "kind_of",
    "media_type_of",
    "media_type_of_name",
    "prove_whole",
]
