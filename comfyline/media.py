"""What a file is, by its content and not by its name, and whether it is whole."""

import mimetypes
import warnings
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
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "image/x-ms-bmp": "image/bmp",
    "video/x-matroska": "video/webm",
}
_EXTENSIONS: Mapping[str, str] = {
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/webm": "webm",
}


def media_type_of(head: bytes) -> str:
    """The media type that the first bytes of a file show; empty when they show none."""
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return ""
    named = [_CANONICAL.get(match.mime_type, match.mime_type) for match in matches]
    media = [name for name in named if name.startswith(_MEDIA)]
    # AVIF and HEIC are MP4 containers: the more special name is the right one.
    return next((name for name in media if name.startswith("image/")), media[0] if media else "")


def extension(media_type: str) -> str:
    """The usual file extension of a media type, without the dot."""
    guessed = mimetypes.guess_extension(media_type) or ".bin"
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
    return media_type


def _decode(path: Path, media_type: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.load()
    except UnidentifiedImageError:
        if media_type in {"image/heif", "image/avif", "image/svg+xml"}:
            return  # Pillow was built without that decoder: the type alone has to do.
        raise BrokenOutput(f"An output calls itself {media_type} and cannot be decoded") from None
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        raise BrokenOutput(f"An output is a broken {media_type}: {e}") from None
