"""Decide which copy of a picture is submitted in its place, if any, and make it.

What is decided goes into the job's key, so it follows from the picture, the step's options and the
model's limits, and from nothing else.
"""

import io
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, Self

from PIL import Image

from comfyline.job import MediaInfo, Preparation
from comfyline.media.probe import (
    alone_if_large,
    as_seen,
    open_picture,
    orientation_of,
    turned_upright,
)
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
_QUALITY = 95
_OPTIONS: Mapping[Form, Mapping[str, Any]] = {
    "jpeg": {"quality": _QUALITY},
    # Level 4: little larger than the usual 6, and twice as fast.
    "png": {"compress_level": 4},
    "webp": {"quality": _QUALITY},
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a model takes of a picture, in bytes and pixels; None is no limit."""

    bytes: int = MOST_BYTES["image"]
    width: int | None = None
    height: int | None = None
    longest: int | None = None
    pixels: int | None = None

    def hold(self, width: int, height: int) -> bool:
        """Tell whether a picture of this size is within them."""
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
        """Parse what `str` wrote. Raises `ValueError`."""
        match = _WRITTEN.fullmatch(written)
        if match is None:
            raise ValueError(f"{written!r} is not a conversion")
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
        """Media type of the copy."""
        return f"image/{self.form}"

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return the copy's size, of an upright original of this size."""
        return scaled(width, height, self.longest or max(width, height))


def scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return the size of the same ratio whose longer side is at most `longest`."""
    factor = min(1.0, longest / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def conversion_for(
    info: MediaInfo, size: int, preparation: Preparation, bounds: Bounds
) -> Conversion | None:
    """Choose the copy to submit for a picture of `size` bytes; None if it goes as it is.

    None as well if the options do not allow for what would be needed: the checks say so.
    """
    if info.media_type not in CONVERTIBLE or not info.width or not info.height:
        return None
    form = _OWN.get(info.media_type)
    is_fit = info.media_type in TAKEN and info.orientation == 1
    is_small = bounds.hold(info.width, info.height) and size <= bounds.bytes
    if preparation.convert and not is_fit:
        form = preparation.convert
    elif form is None or is_small or not preparation.downscale:
        return None
    if not preparation.downscale:
        return Conversion(form)
    longest = _longest(info.width, info.height, form, bounds)
    width, height = Conversion(form, longest).size_of(info.width, info.height)
    may_be_large = width * height * _BYTES_A_PIXEL[form] > bounds.bytes
    kilobytes = bounds.bytes // 1024 if size > bounds.bytes or may_be_large else None
    return Conversion(form, longest, kilobytes)


def too_many_pixels(info: MediaInfo, conversion: Conversion) -> str:
    """Say why a copy has to be made smaller, as the end of a sentence; empty if it need not."""
    if conversion.longest is not None or not info.width or not info.height:
        return ""
    if info.width * info.height > _MOST_PIXELS:
        return f"has more than {_MOST_PIXELS // 1_000_000} million pixels"
    most = _LONGEST[conversion.form]
    is_long = max(info.width, info.height) > most
    return f"has a side of more than {most:,} pixels, the most of {conversion.form}" * is_long


def info_of_copy(info: MediaInfo, conversion: Conversion) -> MediaInfo:
    """Tell what the copy will show."""
    if not info.width or not info.height:
        return info
    width, height = conversion.size_of(info.width, info.height)
    return replace(
        info, media_type=conversion.media_type, width=width, height=height, orientation=1
    )


def _longest(width: int, height: int, form: Form, bounds: Bounds) -> int | None:
    """Return the longest side that is within all bounds; None if the picture is already."""
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


class Unconvertible(ValueError):
    """Raised if no copy can be made of a picture; its text ends a sentence with its name."""


def convert(source: BinaryIO, media_type: str, conversion: Conversion, target: BinaryIO) -> None:
    """Write the copy of a picture: its first frame, without EXIF data, its colour profile kept.

    Raises `Unconvertible`, or `OSError` when a file cannot be read or written. Blocking, and
    seconds of work for a large picture: call it in a thread.
    """
    try:
        source.seek(0)
        with open_picture(source, media_type) as picture:
            if media_type == "image/tiff":
                picture.load()  # Only then it is upright.
            turned = orientation_of(picture)
            size = as_seen(conversion.size_of(*as_seen(picture.size, turned)), turned)
            picture.draft(None, size)
            with alone_if_large(picture):
                picture.load()
                copy, profile = _in_plain_colours(picture, conversion.form)
                if copy.size != size:
                    copy = copy.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
                copy = turned_upright(copy, turned)
                if copy is not picture:
                    # What it was decoded to takes as much memory as the copy.
                    picture.close()
                _save(copy, profile, conversion, target)
    except OSError as error:
        if error.errno is not None:
            raise
        raise Unconvertible(f"cannot be converted: {error}") from error
    except (ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unconvertible(f"cannot be converted: {error}") from error


def _in_plain_colours(picture: Image.Image, form: Form) -> tuple[Image.Image, bytes | None]:
    """Return the picture in grey, RGB or RGBA, and the profile to read its colours by."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        return eight_bits(picture), None
    if picture.mode == "CMYK":
        return _from_print(picture, profile), None
    if picture.has_transparency_data:
        kept = profile if picture.mode != "LA" else None
        return (on_white(picture) if form == "jpeg" else picture.convert("RGBA")), kept
    if picture.mode in {"1", "L"}:
        grey = picture if picture.mode == "L" else picture.convert("L")
        # WebP has no grey, and a profile for grey fits no colours.
        return grey, profile if form != "webp" else None
    if picture.mode == "RGB":
        return picture, profile
    return picture.convert("RGB"), profile if picture.mode == "P" else None


def _from_print(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        from PIL import ImageCms

        with suppress(ImageCms.PyCMSError, OSError):
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            if seen := ImageCms.profileToProfile(picture, inks, screen, outputMode="RGB"):
                return seen
    return picture.convert("RGB")


def eight_bits(picture: Image.Image) -> Image.Image:
    """Return a grey picture of 16 bits in 8: `convert` alone cuts all above 255 off to white."""
    return picture.convert("I").point(lambda value: value / 256).convert("L")


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture that is transparent in places as it is seen on white."""
    seen = picture.convert("RGBA")
    ground = Image.new("RGB", seen.size, (255, 255, 255))
    ground.paste(seen, mask=seen.getchannel("A"))
    return ground


def _save(
    picture: Image.Image, profile: bytes | None, conversion: Conversion, target: BinaryIO
) -> None:
    most = conversion.kilobytes * 1024 if conversion.kilobytes else None
    options: dict[str, Any] = dict(_OPTIONS[conversion.form])
    if profile:
        options["icc_profile"] = profile
    # What came with the picture would otherwise be saved with it: EXIF data, comments.
    picture.info = {}
    while True:
        target.seek(0)
        target.truncate()
        picture.save(target, conversion.form.upper(), **options)
        size = target.seek(0, io.SEEK_END)
        longest = max(picture.size)
        if most is None or size <= most:
            return
        if longest == 1:
            raise Unconvertible("cannot be made small enough")
        smaller = max(1, math.floor(longest * min(0.9, 0.95 * math.sqrt(most / size))))
        picture = picture.resize(
            scaled(*picture.size, smaller), Image.Resampling.LANCZOS, reducing_gap=2.0
        )
