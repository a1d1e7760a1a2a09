"""Pictures, decoded to their last pixel with little memory."""

import threading
import warnings
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from comfyline.media.measures import Look

_ALONE = 25_000_000
"""Pixels from which on a picture is decoded alone, so that memory has a bound."""
_MOST_FRAMES_PIXELS = 400_000_000
"""How much of an animation is decoded: it may promise frames without end."""
_SIDEWAYS = {5, 6, 7, 8}
_turn = threading.Lock()

# Pillow refuses a bomb itself; that a large photo is half of one is of no use to anybody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def look_at_picture(file: BinaryIO, media_type: str) -> Look:
    """Size, orientation and flaws of a picture. Raises nothing but what reading raises.

    A type that this Pillow has no decoder for (HEIC, SVG) is taken as it is.
    """
    try:
        if media_type == "image/png":
            _verify(file)
        return _decoded(file, media_type)
    except UnidentifiedImageError:
        # Its message names the file object, which says nothing to a person.
        known = media_type in _decodable()
        return Look(media_type, flaw="is broken: it cannot be decoded" if known else "")
    except Image.DecompressionBombError:
        return Look(media_type, flaw="promises more pixels than can be safely decoded")
    except Exception as error:  # noqa: BLE001  # the decoders raise whatever broken bytes lead to
        return Look(media_type, flaw=f"is broken: {_words(error)}")


def _verify(file: BinaryIO) -> None:
    """Reads every checksum of a PNG, up to the mark of its end; other formats have none."""
    file.seek(0)
    with Image.open(file) as picture:
        picture.verify()


def _decoded(file: BinaryIO, media_type: str) -> Look:
    file.seek(0)
    with _opened(file, media_type) as picture:
        width, height = picture.size
        # At an eighth of its size every byte of a JPEG is read, in a fraction of time and memory.
        picture.draft(picture.mode, (1, 1))
        if picture.width * picture.height > _ALONE:
            with _turn:
                _load_all(picture)
        else:
            _load_all(picture)
        if media_type == "image/tiff":
            # Pillow turns these itself while it decodes them.
            return Look(media_type, *picture.size)
        orientation = _orientation(picture)
    if orientation in _SIDEWAYS:
        width, height = height, width
    return Look(media_type, width, height, orientation=orientation)


def _opened(file: BinaryIO, media_type: str) -> ImageFile.ImageFile:
    if media_type == "image/jpeg":
        # Not by `Image.open`, which counts pixels that are never decoded: phones take 200 million.
        return JpegImagePlugin.JpegImageFile(file)
    return Image.open(file)


def _load_all(picture: ImageFile.ImageFile) -> None:
    picture.load()
    pixels = frame = 0
    while getattr(picture, "is_animated", False) and pixels < _MOST_FRAMES_PIXELS:
        frame += 1
        pixels += picture.width * picture.height
        try:
            picture.seek(frame)
        except EOFError:
            return
        picture.load()


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  # EXIF data is often broken in a picture that is not
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # noqa: PLR2004  # EXIF's


def _decodable() -> set[str]:
    Image.init()
    return set(Image.MIME.values())


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "it cannot be decoded"
