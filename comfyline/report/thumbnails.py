"""Small JPEG copies of pictures for the gallery."""

import struct
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from comfyline.files import appearing_whole
from comfyline.media.probe import register_decoder
from comfyline.media.types import HEAD_BYTES, media_type_of

MAX_PIXELS = 64_000_000
"""Pictures that would take more pixels in memory are not opened (as RGBA: 256 MB)."""

NEUTRAL = (226, 226, 228)
"""What shows through where a picture is transparent: calm on a light and on a dark page."""

# Pillow can read far more, partly by starting other programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "HEIF")
_SMALL_PROFILE = 4096
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def make_thumbnails(pictures: Iterable[tuple[Path, str]], directory: Path) -> None:
    """Write small copies of pictures, each named by the SHA-256 that comes with it.

    A gallery without one is still a gallery: a full disk must not keep a result from being stored.
    """
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        for source, sha256 in pictures:
            target = directory / f"{sha256}.jpg"
            if not target.exists():
                make_thumbnail(source, target)


def make_thumbnail(source: Path, target: Path, side: int = 360) -> tuple[int, int] | None:
    """Write a JPEG of at most `side` × `side` pixels to `target` and tell its size.

    None, and no file, when `source` is no picture, is broken or would fill the memory. What goes
    wrong in writing is raised.
    """
    try:
        picture, profile = _small(source, side)
    except _UNREADABLE:
        return None
    with appearing_whole(target) as part:
        # No EXIF: the orientation is applied, and where a photo was taken is private.
        picture.save(
            part,
            "JPEG",
            quality=84,
            optimize=True,
            progressive=True,
            icc_profile=profile,
            comment=b"",
        )
    return picture.size


def _small(source: Path, side: int) -> tuple[Image.Image, bytes | None]:
    with _open(source) as image:
        # JPEG decodes at a fraction of its size, so that a huge photo costs little memory.
        image.draft(None, (side * 2, side * 2))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(source.name)
        profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA"} else None
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        picture = _reducible(image)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        # Turned last, when there are few pixels; converting may have dropped the tag.
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        picture = ImageOps.exif_transpose(picture)
    if profile and len(profile) > _SMALL_PROFILE:
        profile = None
    return _opaque(picture), profile


def _open(source: Path) -> Image.Image:
    with source.open("rb") as file:
        register_decoder(media_type_of(file.read(HEAD_BYTES)))
    Image.init()
    readable = [name for name in _FORMATS if name in Image.OPEN]
    # Pillow warns by the size in the file; the limit that counts is the size in memory, above.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=readable)


def _reducible(image: Image.Image) -> Image.Image:
    """Return the picture in a mode in which neighbouring pixels can be averaged."""
    if image.mode.startswith("I;16"):
        # Depth maps: `convert` alone would cut all above 255 off to white.
        return image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    ground = Image.new("RGB", picture.size, NEUTRAL)
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground
