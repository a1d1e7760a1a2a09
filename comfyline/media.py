"""What a file is, by its content and not by its name, and whether it is whole."""

import mimetypes
from collections.abc import Mapping
from pathlib import Path

import puremagic
from PIL import Image, UnidentifiedImageError

from comfyline.errors import BrokenOutput

HEAD_BYTES = 4096
"""How much of a file's beginning decides about its type."""

_MEDIA = ("image/", "video/", "audio/")
_CANONICAL: Mapping[str, str] = {
    "application/ogg": "audio/ogg",
    "application/x-matroska": "video/webm",
    "image/x-ms-bmp": "image/bmp",
    "video/x-matroska": "video/webm",
}
_RIFF: Mapping[bytes, str] = {
    b"WEBP": "image/webp",
    b"WAVE": "audio/wav",
    b"AVI ": "video/x-msvideo",
}
_BRANDS: Mapping[bytes, str] = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
"""What the brand of an MP4 container says; the first that matches is the most special one."""

# By these an SVG begins, and an HTML page that has a drawing in it does not.
_SVG_BEGINS = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")
_STREAMED_RIFF = {0, 0xFFFFFFFF}
_EXTENSIONS: Mapping[str, str] = {
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-msvideo": "avi",
}
# Without the machine's own tables: a name must not depend on who makes it.
_KNOWN_TYPES = mimetypes.MimeTypes()


_COMMON = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
"""Nearly all inputs: known at a glance, where the library's full look takes a millisecond."""


def media_type_of(head: bytes) -> str:  # noqa: PLR0911  # a table of beginnings
    """The media type that the first bytes of a file show; empty when they show none."""
    for signature, media_type in _COMMON:
        if head.startswith(signature):
            return media_type
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if _is_mp3_frame(head):
        return "audio/mpeg"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return "image/svg+xml" if text.startswith(_SVG_BEGINS) and b"<svg" in text else ""
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return ""
    named = (_CANONICAL.get(match.mime_type, match.mime_type) for match in matches)
    return next((name for name in named if name.startswith(_MEDIA)), "")


def extension(media_type: str) -> str:
    """The usual file extension of a media type, without the dot."""
    guessed = _KNOWN_TYPES.guess_extension(media_type) or ".bin"
    return _EXTENSIONS.get(media_type, guessed.removeprefix("."))


def prove_whole(path: Path, head: bytes, expected: str) -> str:
    """The media type of a fetched file that is proved to be a whole picture, video or sound.

    `expected` names what the model makes (`image`, `video`, `audio`, or empty when unknown).
    Raises `BrokenOutput`. Blocking: pictures are decoded, so call it in a thread.
    """
    media_type = media_type_of(head)
    if not media_type:
        shown = head[:40].decode("utf-8", "replace").strip()
        raise BrokenOutput(f"An output is no picture, video or sound; it begins with {shown!r}")
    if expected and not media_type.startswith(f"{expected}/"):
        raise BrokenOutput(f"An output is {media_type}, but the model makes {expected}")
    if media_type.startswith("image/"):
        _decode(path, media_type)
    if head[4:8] == b"ftyp":
        _walk_boxes(path, media_type)
    if head.startswith(b"RIFF"):
        _check_riff(path, head, media_type)
    return media_type


def _by_brand(head: bytes) -> str:
    """The type of an MP4 container: by its major brand, else by the ones it is compatible with."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = [head[at : at + 4] for at in range(16, end, 4)]
    still = [brand for brand in compatible if _BRANDS.get(brand, "").startswith("image/")]
    if head[8:12] in {b"mif1", b"msf1"} and still:
        # These say only that it is a still; the codec stands behind them.
        return next((_BRANDS[b] for b in still if b not in {b"mif1", b"msf1"}), "image/heif")
    return _BRANDS.get(head[8:12], "video/mp4")


def _is_mp3_frame(head: bytes) -> bool:
    """Whether an MPEG audio frame of layer III begins here, as in an MP3 without tags."""
    return (
        len(head) > 2  # noqa: PLR2004
        and head[0] == 0xFF  # noqa: PLR2004
        and head[1] & 0xE6 == 0xE2  # noqa: PLR2004
        and head[2] & 0xF0 != 0xF0  # noqa: PLR2004
        and head[2] & 0x0C != 0x0C  # noqa: PLR2004
    )


def _decode(path: Path, media_type: str) -> None:
    try:
        with Image.open(path) as picture:
            # Reads every checksum of a PNG, up to the mark of its end; other formats have none.
            picture.verify()
        with Image.open(path) as picture:
            picture.load()
    except UnidentifiedImageError:
        if media_type in {"image/heic", "image/heif", "image/avif", "image/svg+xml"}:
            return  # Pillow was built without that decoder: the type alone has to do.
        raise BrokenOutput(f"An output calls itself {media_type} and cannot be decoded") from None
    except Exception as error:  # noqa: BLE001  # the decoders raise whatever broken bytes lead to
        raise BrokenOutput(f"An output is a broken {media_type}: {error}") from None


def _walk_boxes(path: Path, media_type: str) -> None:
    """Follows the outermost boxes of an MP4 container, which fill a whole file exactly."""
    left = path.stat().st_size
    with path.open("rb") as file:
        while left:
            header = file.read(8)
            size, used = int.from_bytes(header[:4], "big"), 8
            if size == 0 and len(header) == used:
                return  # It reaches to the end of the file, wherever that is.
            if size == 1:
                size, used = int.from_bytes(file.read(8), "big"), 16
            if not used <= size <= left:
                raise BrokenOutput(f"An output is a {media_type} that is cut short")
            file.seek(size - used, 1)
            left -= size


def _check_riff(path: Path, head: bytes, media_type: str) -> None:
    promised = int.from_bytes(head[4:8], "little")
    if promised not in _STREAMED_RIFF and promised + 8 > path.stat().st_size:
        raise BrokenOutput(f"An output is a {media_type} that is cut short")
