"""Tell similar pictures and videos, by few enough bytes to keep for each output of a run.

Two pictures are nearly the same in their lines, by a difference hash (each cell of a small grey
copy brighter than its neighbour or not), and in their colours, without which a red and a blue
shirt would be one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageStat

from comfyline.media.convert import eight_bits, on_white, scaled
from comfyline.media.probe import (
    alone_if_large,
    as_seen,
    first_frames,
    open_picture,
    orientation_of,
    turned_upright,
)
from comfyline.media.types import HEAD_BYTES, kind_of, media_type_of

_SMALL = 256
"""Pixels of the side at which a picture is looked at."""
_ACROSS, _DOWN = 9, 8
_CELLS = 16
_BLANK = 2.0
"""Standard deviation of the brightness of each colour, of 255, below which nothing is to be seen:
what compressing a plain area leaves."""
_FLAT = 2
"""Two cells whose brightness differs by no more are as bright as each other."""
_SAME_LINES = 3
_SAME_COLOURS = 6.0
"""Mean difference of the colours' cells, of 255: more than another quality or size makes."""
_SAME_EVERYWHERE = 24
"""Largest difference of any cell: less than a thing that was added, taken away or recoloured."""
_SAME_SHAPE = 0.03


@dataclass(frozen=True, slots=True)
class Appearance:
    """What an upright picture, or a video from its beginning, looks like; sizes are in pixels."""

    width: int
    height: int
    is_blank: bool
    lines: int
    colours: bytes

    def is_near(self, other: "Appearance") -> bool:
        """Tell whether a person would call the two the same picture, at another size or quality."""
        shape, its_shape = self.width / self.height, other.width / other.height
        return (
            abs(shape / its_shape - 1) <= _SAME_SHAPE
            and (self.lines ^ other.lines).bit_count() <= _SAME_LINES
            and sum(self._apart(other)) <= _SAME_COLOURS * len(self.colours)
        )

    def is_same(self, other: "Appearance") -> bool:
        """Tell whether nothing at all was changed, not even in one place."""
        return self.is_near(other) and max(self._apart(other)) <= _SAME_EVERYWHERE

    def _apart(self, other: "Appearance") -> list[int]:
        return [abs(a - b) for a, b in zip(self.colours, other.colours, strict=True)]


@dataclass(frozen=True, slots=True)
class NamedAppearance:
    """A medium's appearance under a name for people; None if there is nothing to see."""

    name: str
    sha256: str
    media_type: str
    appearance: Appearance | None


def appearance(path: Path) -> Appearance | None:
    """Decode a file's appearance; None for a sound, and for what cannot be decoded.

    Raises `OSError`. Blocking: pictures are decoded, so call it in a thread.
    """
    with path.open("rb") as file:
        return appearance_of(file)


def appearance_of(file: BinaryIO) -> Appearance | None:
    """Decode the appearance of an open file, in the same way."""
    media_type = media_type_of(file.read(HEAD_BYTES))
    file.seek(0)
    match kind_of(media_type):
        case "image":
            return _of_picture(file, media_type)
        case "video":
            return _of_video(file, media_type)
        case _:
            return None


def _of_picture(file: BinaryIO, media_type: str) -> Appearance | None:
    try:
        with open_picture(file, media_type) as picture:
            if media_type == "image/tiff":
                picture.load()  # Only then it is upright.
            turned = orientation_of(picture)
            size = as_seen(picture.size, turned)
            picture.draft(None, (_SMALL, _SMALL))
            with alone_if_large(picture):
                small = turned_upright(_small(picture), turned)
    except Exception as error:  # broken bytes lead the decoders anywhere
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return None
    return _appearance(small, *size)


def _of_video(file: BinaryIO, media_type: str) -> Appearance | None:
    """Take the first frame; it is blank only if all of the beginning is: many a film fades in."""
    first: Appearance | None = None
    for frame in first_frames(file, media_type):
        seen = _appearance(_small(frame), *frame.size)
        if not seen.is_blank:
            return seen
        first = first or seen
    return first


def _small(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB, at most `_SMALL` pixels wide and high, on white."""
    if picture.mode.startswith("I;16"):
        picture = eight_bits(picture)
    if picture.has_transparency_data:
        picture = on_white(picture)
    size = scaled(*picture.size, _SMALL)
    return picture.convert("RGB").resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _appearance(small: Image.Image, width: int, height: int) -> Appearance:
    grey = small.convert("L").resize((_ACROSS, _DOWN), Image.Resampling.BOX).tobytes()
    lines = 0
    for row in range(_DOWN):
        for column in range(_ACROSS - 1):
            left, right = grey[row * _ACROSS + column : row * _ACROSS + column + 2]
            lines = lines << 1 | (left > right + _FLAT)
    return Appearance(
        width=width,
        height=height,
        is_blank=max(ImageStat.Stat(small).stddev) < _BLANK,
        lines=lines,
        colours=small.resize((_CELLS, _CELLS), Image.Resampling.BOX).tobytes(),
    )
