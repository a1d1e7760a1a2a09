"""What a file is, by its first bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.media.types import HEAD_BYTES, SVG, extension, media_type_of, media_type_of_name
from tests.media.clips import clip, picture


def boxes(major: bytes, *compatible: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(40)


EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87"
FILES: dict[str, tuple[bytes, str, str]] = {
    "png": (picture("PNG"), "image/png", "png"),
    "jpeg": (picture("JPEG"), "image/jpeg", "jpg"),
    "webp": (picture("WEBP"), "image/webp", "webp"),
    "gif": (picture("GIF"), "image/gif", "gif"),
    "bmp": (picture("BMP"), "image/bmp", "bmp"),
    "tiff": (picture("TIFF"), "image/tiff", "tiff"),
    "avif": (picture("AVIF"), "image/avif", "avif"),
    "heic": (boxes(b"heic", b"mif1", b"heic"), "image/heic", "heic"),
    "heic by a compatible brand": (boxes(b"mif1", b"mif1", b"heic"), "image/heic", "heic"),
    "heif": (boxes(b"mif1", b"mif1"), "image/heif", "heif"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', SVG, "svg"),
    "svg with a prolog": (b'<?xml version="1.0"?>\n<svg/>', SVG, "svg"),
    "mp4": (boxes(b"isom", b"isom", b"avc1", b"mp41"), "video/mp4", "mp4"),
    "mov": (boxes(b"qt  "), "video/quicktime", "mov"),
    "webm": (EBML + bytes(200), "video/webm", "webm"),
    "m4a": (boxes(b"M4A ", b"mp42"), "audio/mp4", "m4a"),
    "mp3": (b"\xff\xfb\x90\x64" + bytes(413), "audio/mpeg", "mp3"),
    "mp3 with a tag": (b"ID3\x04\0\0\0\0\0\x23TSSE" + bytes(400), "audio/mpeg", "mp3"),
    "wav": (clip("wav", None, "pcm_s16le"), "audio/wav", "wav"),
    "ogg": (b"OggS\0\x02" + bytes(20) + b"\x01\x1e\x01vorbis", "audio/ogg", "ogg"),
    "flac": (b"fLaC\0\0\0\x22" + bytes(34), "audio/flac", "flac"),
    "nothing": (b"", "", "bin"),
    "text": (b"hello", "", "bin"),
    "html": (b"<!doctype html><title>One moment</title><svg></svg>", "", "bin"),
    "json": (b'{"error_code": 404001}', "", "bin"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "", "bin"),
    "zip": (b"PK\3\4" + bytes(30), "", "bin"),
    "pdf": (b"%PDF-1.4", "", "bin"),
    "riff of another kind": (b"RIFF\x10\0\0\0ACONabcd", "", "bin"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_its_first_bytes_say(name: str) -> None:
    content, media_type, usual = FILES[name]
    assert media_type_of(content[:HEAD_BYTES]) == media_type
    assert extension(media_type) == usual


@given(st.binary(max_size=64) | st.sampled_from(sorted(FILES)).map(lambda n: FILES[n][0][:20]))
def test_no_bytes_break_the_recognition(head: bytes) -> None:
    found = media_type_of(head)
    assert found in {"", SVG} or found.startswith(("image", "video", "audio"))
    assert found != "image/svg+xml"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("cat.JPG", "image/jpeg"),
        ("https://host/a.b/cat.jpg", "image/jpeg"),
        (".jpg", "image/jpeg"),
        ("cat", ""),
        ("cat.bin", ""),
        ("a.jpg/cat", ""),
        ("film.mkv", ""),
    ],
)
def test_a_name_claims_a_type_or_none(name: str, media_type: str) -> None:
    assert media_type_of_name(name) == media_type
