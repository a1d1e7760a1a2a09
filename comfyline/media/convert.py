"""Which copy of a picture is submitted in its place, if any: decided from what is known of it.

Pure: `converting` makes the copy. What is decided here goes into the job's key, so it follows
from the picture, the step's options and the model's limits, and from nothing else.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from comfyline.job import Preparation
from comfyline.media.measures import Look
from comfyline.media.types import MOST_BYTES, TAKEN

Form = Literal["jpeg", "png", "webp"]

CONVERTIBLE = frozenset(
    {*TAKEN, "image/avif", "image/bmp", "image/heic", "image/heif", "image/tiff"}
)
"""The picture types of which a copy can be made."""

_MOST_PIXELS = 100_000_000
"""Of a picture that is decoded whole, 400 MB at most."""
_LONGEST: Mapping[Form, int] = {"jpeg": 65_500, "png": 2**31 - 1, "webp": 16_383}
"""What each format can hold on one side."""
_OWN: Mapping[str, Form] = {
    "image/gif": "png",
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
}
_BYTES_A_PIXEL: Mapping[Form, float] = {"jpeg": 1.5, "png": 4, "webp": 1.5}
"""More than nearly any picture takes: below a limit by this, no size has to be looked at."""
_WRITTEN = re.compile(r"(jpeg|png|webp)(?:<=(\d+)px)?(?:<=(\d+)([MK])B)?")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a model takes of a picture, in bytes and pixels; None is no limit."""

    bytes: int = MOST_BYTES["image"]
    width: int | None = None
    height: int | None = None
    longest: int | None = None
    pixels: int | None = None

    def hold(self, width: int, height: int) -> bool:
        """Whether a picture of this size is within them."""
        sides = ((width, self.width), (height, self.height), (max(width, height), self.longest))
        within = all(most is None or side <= most for side, most in sides)
        return within and (self.pixels is None or width * height <= self.pixels)


@dataclass(frozen=True, slots=True)
class Conversion:
    """The copy that is submitted: its format, its longest side and size at most.

    As text, `jpeg<=4096px<=50MB`, it stands in `Media.conversion`.
    """

    form: Form
    longest: int | None = None
    kilobytes: int | None = None

    @classmethod
    def parse(cls, written: str) -> Self:
        """What `str` wrote. Raises ValueError."""
        match = _WRITTEN.fullmatch(written)
        if match is None:
            raise ValueError(f"{written!r} is no conversion")
        form, longest, size, unit = match.groups()
        kilobytes = int(size) * (1024 if unit == "M" else 1) if size else None
        return cls(form, int(longest) if longest else None, kilobytes)  # type: ignore[arg-type]  # by the pattern

    def __str__(self) -> str:
        text: str = self.form
        if self.longest is not None:
            text += f"<={self.longest}px"
        if self.kilobytes is not None:
            whole, rest = divmod(self.kilobytes, 1024)
            text += f"<={self.kilobytes}KB" if rest else f"<={whole}MB"
        return text

    @property
    def media_type(self) -> str:
        """The copy's."""
        return f"image/{self.form}"

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """The copy's pixels, of an upright original of this size."""
        return scaled(width, height, self.longest or max(width, height))


def scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size with the same ratio whose longer side is at most `longest`."""
    factor = min(1.0, longest / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def conversion_for(
    look: Look, size: int, preparation: Preparation, bounds: Bounds
) -> Conversion | None:
    """The copy to be submitted for a picture of `size` bytes; None when it goes as it is.

    None as well where the options do not allow for what would be needed: the checks say so.
    """
    if look.media_type not in CONVERTIBLE or not look.width or not look.height:
        return None
    form = _OWN.get(look.media_type)
    is_fit = look.media_type in TAKEN and look.orientation == 1
    is_small = bounds.hold(look.width, look.height) and size <= bounds.bytes
    if preparation.convert and not is_fit:
        form = preparation.convert
    elif form is None or is_small or not preparation.downscale:
        return None
    if not preparation.downscale:
        return Conversion(form)
    longest = _longest(look.width, look.height, form, bounds)
    width, height = Conversion(form, longest).size_of(look.width, look.height)
    may_be_large = width * height * _BYTES_A_PIXEL[form] > bounds.bytes
    kilobytes = bounds.bytes // 1024 if size > bounds.bytes or may_be_large else None
    return Conversion(form, longest, kilobytes)


def too_many_pixels(look: Look, conversion: Conversion) -> str:
    """Why a copy has to be made smaller, as the end of a sentence with its name; or nothing."""
    if conversion.longest is not None or not look.width or not look.height:
        return ""
    if look.width * look.height > _MOST_PIXELS:
        return f"has more than {_MOST_PIXELS // 1_000_000} million pixels"
    most = _LONGEST[conversion.form]
    is_long = max(look.width, look.height) > most
    return f"has a side of more than {most:,} pixels, the most of {conversion.form}" * is_long


def look_of_copy(look: Look, conversion: Conversion) -> Look:
    """What the copy will show."""
    if not look.width or not look.height:
        return look
    width, height = conversion.size_of(look.width, look.height)
    return replace(
        look, media_type=conversion.media_type, width=width, height=height, orientation=1
    )


def _longest(width: int, height: int, form: Form, bounds: Bounds) -> int | None:
    """The longest side with which the picture is within all bounds; None when it is already."""
    all_of_them = replace(bounds, longest=min(bounds.longest or _LONGEST[form], _LONGEST[form]))
    longest = max(width, height)
    if width * height > _MOST_PIXELS:
        # By halves, for so a JPEG is decoded at once, and never in full.
        longest >>= math.ceil(math.log(width * height / _MOST_PIXELS, 4))
    if all_of_them.hold(*scaled(width, height, longest)):
        return longest if longest < max(width, height) else None
    fits, too_long = 1, longest
    while too_long - fits > 1:
        between = (fits + too_long) // 2
        if all_of_them.hold(*scaled(width, height, between)):
            fits = between
        else:
            too_long = between
    return fits
