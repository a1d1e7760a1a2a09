"""Pictures, decoded to their last pixel with little memory."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from comfyline.media.measures import Look

_ALONE = 25_000_000
"""Pixels from which on a picture is decoded alone, so that memory has a bound."""
_MOST_FRAMES_PIXELS = 400_000_000
"""How much of an animation is decoded: it may promise frames without end."""
_SIDEWAYS = {5, 6, 7, 8}
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each of EXIF's orientations."""
_HEIF = {"image/heic", "image/heif"}
_turn = threading.Lock()

# Pillow refuses a bomb itself; that a large photo is half of one is of no use to anybody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def look_at_picture(file: BinaryIO, media_type: str) -> Look:
    """Size, orientation and flaws of a picture. Raises nothing but what reading raises.

    A type that there is no decoder for (SVG) is taken as it is.
    """
    try:
        if media_type == "image/png":
            _verify(file)
        return _decoded(file, media_type)
    except UnidentifiedImageError:
        # Its message names the file object, which says nothing to a person.
        known = media_type in _decodable() | _HEIF
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
    with open_picture(file, media_type) as picture:
        width, height = picture.size
        # At an eighth of its size every byte of a JPEG is read, in a fraction of time and memory.
        picture.draft(picture.mode, (1, 1))
        with alone_if_large(picture):
            _load_all(picture)
        if media_type == "image/tiff":
            # Pillow turns these itself while it decodes them.
            return Look(media_type, *picture.size)
        orientation = orientation_of(picture)
    return Look(media_type, *as_seen((width, height), orientation), orientation=orientation)


def open_picture(file: BinaryIO, media_type: str) -> ImageFile.ImageFile:
    """Opens a picture by its type without decoding it. Raises what Pillow raises."""
    if media_type == "image/jpeg":
        # Not by `Image.open`, which counts pixels that are never decoded: phones take 200 million.
        return JpegImagePlugin.JpegImageFile(file)
    learn(media_type)
    return Image.open(file)


def learn(media_type: str) -> None:
    """Sees to it that Pillow can open pictures of this type, if anything can."""
    if media_type in _HEIF:
        _learn_heif()


@contextmanager
def alone_if_large(picture: Image.Image) -> Iterator[None]:
    """Large pictures take turns in here, so that those in memory at a time have a bound."""
    if picture.width * picture.height <= _ALONE:
        yield
        return
    with _turn:
        yield


def orientation_of(picture: Image.Image) -> int:
    """EXIF's orientation: 1 upright, 2 to 8 mirrored or turned."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  # EXIF data is often broken in a picture that is not
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # noqa: PLR2004  # EXIF's


def turned_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture as it is to be seen."""
    turn = _UPRIGHT.get(orientation)
    return picture.transpose(turn) if turn is not None else picture


def as_seen(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of a picture that is turned upright; and back again."""
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


@lru_cache(maxsize=1)
def _learn_heif() -> None:
    """Loading the decoder takes as long as Pillow itself, and most runs have no such photo."""
    import pillow_heif

    # Its thumbnails are not looked at, and it hands every picture out upright.
    pillow_heif.register_heif_opener(thumbnails=False)


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


def _decodable() -> set[str]:
    Image.init()
    return set(Image.MIME.values())


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "it cannot be decoded"
