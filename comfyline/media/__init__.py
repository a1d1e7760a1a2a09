"""What a media file is by its content: its type, its size and length, whether it is whole."""

from comfyline.media.probe import MediaInfo, check_beginning, check_whole, probe, probe_file
from comfyline.media.types import (
    HEAD_BYTES,
    MOST_BYTES,
    SVG,
    TAKEN,
    extension,
    is_format,
    kind_of,
    kind_of_format,
    media_type_of,
    media_type_of_name,
)

__all__ = [
    "HEAD_BYTES",
    "MOST_BYTES",
    "SVG",
    "TAKEN",
    "MediaInfo",
    "check_beginning",
    "check_whole",
    "extension",
    "is_format",
    "kind_of",
    "kind_of_format",
    "media_type_of",
    "media_type_of_name",
    "probe",
    "probe_file",
]
