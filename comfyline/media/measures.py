"""What can be measured of a media file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """What a media file shows when it is opened; None is what it does not show.

    `media_type` is the type with what is inside known: an MP4 without pictures is a sound.
    `width` and `height` are in pixels as a viewer sees them, `duration` is in seconds.
    `orientation` is EXIF's (1 upright, 2 to 8 mirrored or turned). `flaw` says why the file is
    not whole, as the end of a sentence that begins with its name; empty when it is.
    """

    media_type: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    fps: float | None = None
    orientation: int = 1
    flaw: str = ""
