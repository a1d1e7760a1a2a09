"""Tell the type of a media file by its first bytes, and what follows from the type alone."""

import mimetypes
from collections.abc import Mapping

import puremagic

from comfyline.job import MediaKind

HEAD_BYTES = 4096
"""How much of a file's beginning decides about its type."""

MOST_BYTES: Mapping[MediaKind, int] = {
    "image": 50 * 2**20,
    "video": 100 * 2**20,
    "audio": 100 * 2**20,
}
"""How large a medium RunComfy takes at most (its public documentation)."""

TAKEN = frozenset({"image/gif", "image/jpeg", "image/png", "image/webp"})
"""The picture types that models take, unless one says that it takes more."""

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
SVG = "application/x-svg"
"""A drawing that may run scripts: no picture, and never called by the type that browsers run."""
_EXTENSIONS: Mapping[str, str] = {
    SVG: "svg",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/webm": "webm",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-msvideo": "avi",
}
_NAMED = {used: media_type for media_type, used in _EXTENSIONS.items()} | {
    "bmp": "image/bmp",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webm": "video/webm",
}
# Without the machine's own tables: a name must not depend on who makes it.
_KNOWN_TYPES = mimetypes.MimeTypes()


_COMMON = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
"""Nearly all inputs: known at a glance, where the library's full look takes a millisecond."""


def media_type_of(head: bytes) -> str:  # noqa: PLR0911  # a table of beginnings
    """Return the media type that a file's first bytes show; empty when they show none."""
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
        return SVG if text.startswith(_SVG_BEGINS) and b"<svg" in text else ""
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return ""
    named = (_CANONICAL.get(match.mime_type, match.mime_type) for match in matches)
    return next((name for name in named if name.startswith(_MEDIA)), "")


def kind_of(media_type: str) -> MediaKind | None:
    """Return the kind of a media type; None for what is no picture, video or sound."""
    if media_type == "image/svg+xml":
        return None  # What an earlier version wrote down of a drawing.
    return next((kind for kind in MOST_BYTES if media_type.startswith(f"{kind}/")), None)


def extension(media_type: str) -> str:
    """Return the usual file extension of a media type, without the dot."""
    guessed = _KNOWN_TYPES.guess_extension(media_type) or ".bin"
    return _EXTENSIONS.get(media_type, guessed.removeprefix("."))


def media_type_of_name(name: str) -> str:
    """Return the media type that a file's name claims; empty for an unknown extension."""
    return _NAMED.get(name.rpartition(".")[2].lower(), "")


def _by_brand(head: bytes) -> str:
    """Tell the type of an MP4 container by its major brand, else by its compatible ones."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = [head[at : at + 4] for at in range(16, end, 4)]
    still = [brand for brand in compatible if _BRANDS.get(brand, "").startswith("image/")]
    if head[8:12] in {b"mif1", b"msf1"} and still:
        # These say only that it is a still; the codec stands behind them.
        return next((_BRANDS[b] for b in still if b not in {b"mif1", b"msf1"}), "image/heif")
    return _BRANDS.get(head[8:12], "video/mp4")


def _is_mp3_frame(head: bytes) -> bool:
    """Tell whether an MPEG audio frame of layer III begins here, as in an MP3 without tags."""
    return (
        len(head) > 2  # noqa: PLR2004
        and head[0] == 0xFF  # noqa: PLR2004
        and head[1] & 0xE6 == 0xE2  # noqa: PLR2004
        and head[2] & 0xF0 != 0xF0  # noqa: PLR2004
        and head[2] & 0x0C != 0x0C  # noqa: PLR2004
    )
