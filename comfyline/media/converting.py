"""Makes the copy of a picture that a model takes: upright, in its colours, in another format."""

import io
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image, ImageCms

from comfyline.media.convert import Conversion, Form, scaled
from comfyline.media.pictures import (
    alone_if_large,
    as_seen,
    open_picture,
    orientation_of,
    turned_upright,
)

_QUALITY = 95
_OPTIONS: Mapping[Form, Mapping[str, Any]] = {
    "jpeg": {"quality": _QUALITY},
    # Level 4: little larger than the usual 6, and twice as fast.
    "png": {"compress_level": 4},
    "webp": {"quality": _QUALITY},
}


class Unconvertible(ValueError):
    """No copy can be made of a picture; its text is the end of a sentence that names it."""


def convert(source: BinaryIO, media_type: str, conversion: Conversion, target: BinaryIO) -> None:
    """Writes the copy of a picture: its first frame, without EXIF data, its colour profile kept.

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
    """The picture in grey, RGB or RGBA, with the profile that its colours are to be read by."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        # `convert` alone would cut all above 255 off to white.
        return picture.convert("I").point(lambda value: value / 256).convert("L"), None
    if picture.mode == "CMYK":
        return _from_print(picture, profile), None
    if picture.has_transparency_data:
        kept = profile if picture.mode != "LA" else None
        seen = picture.convert("RGBA")
        return (_on_white(seen) if form == "jpeg" else seen), kept
    if picture.mode in {"1", "L"}:
        grey = picture if picture.mode == "L" else picture.convert("L")
        # WebP has no grey, and a profile for grey fits no colours.
        return grey, profile if form != "webp" else None
    if picture.mode == "RGB":
        return picture, profile
    return picture.convert("RGB"), profile if picture.mode == "P" else None


def _from_print(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            if seen := ImageCms.profileToProfile(picture, inks, screen, outputMode="RGB"):
                return seen
    return picture.convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    ground.paste(picture, mask=picture.getchannel("A"))
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
