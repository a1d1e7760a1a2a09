"""Small JPEG copies of pictures for the gallery."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from comfyline.files import appearing_whole
from comfyline.media.convert import eight_bits
from comfyline.media.probe import open_picture, orientation_of, turned_upright
from comfyline.media.types import HEAD_BYTES, kind_of, media_type_of

MAX_PIXELS = 64_000_000
"""Pictures that would take more pixels in memory are not opened (as RGBA: 256 MB)."""

NEUTRAL = (226, 226, 228)
"""What shows through where a picture is transparent: calm on a light and on a dark page."""

_SIDE = 360
_SMALL_PROFILE = 4096


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


def make_thumbnail(source: Path, target: Path) -> None:
    """Write a small JPEG to `target`, unless `source` is no picture, broken or far too large.

    What goes wrong in writing is raised.
    """
    try:
        picture, profile = _small(source)
    except Exception:  # noqa: BLE001  # broken bytes lead the decoders anywhere
        return
    with appearing_whole(target) as part:
        # No EXIF: the orientation is applied, and where a photo was taken is private.
        options = {"quality": 84, "optimize": True, "comment": b""}
        picture.save(part, "JPEG", icc_profile=profile, **options)


def _small(source: Path) -> tuple[Image.Image, bytes | None]:
    with source.open("rb") as file:
        media_type = media_type_of(file.read(HEAD_BYTES))
        if kind_of(media_type) != "image":
            raise ValueError(media_type)
        file.seek(0)
        with open_picture(file, media_type) as image:
            # JPEG decodes at a fraction of its size, so that a huge photo costs little.
            image.draft(None, (_SIDE, _SIDE))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(source.name)
            if media_type == "image/tiff":
                image.load()  # Only then it is upright.
            profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA"} else None
            orientation = orientation_of(image)
            picture = _reducible(image)
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=1.0)
            # Turned last, when there are few pixels.
            picture = _opaque(turned_upright(picture, orientation))
    return picture, profile if profile and len(profile) <= _SMALL_PROFILE else None


def _reducible(image: Image.Image) -> Image.Image:
    """Return the picture in a mode in which neighbouring pixels can be averaged."""
    if image.mode.startswith("I;16"):
        return eight_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    ground = Image.new("RGB", picture.size, NEUTRAL)
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground
