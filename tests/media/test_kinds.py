"""What a file is, by its content, and whether it is whole."""

import io
import struct
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comfyline.errors import BrokenOutput
from comfyline.job import MediaKind
from comfyline.media import (
    HEAD_BYTES,
    SVG,
    extension,
    media_type_of,
    media_type_of_name,
    prove_whole,
)
from comfyline.media.containers import is_cut_short
from tests.media.clips import bomb, clip


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(buffer, form)
    return buffer.getvalue()


def box(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def boxes(major: bytes, *compatible: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return box(b"ftyp", brands) + box(b"moov", bytes(40)) + box(b"mdat", b"x" * 400)


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return buffer.getvalue()


MIF1 = picture("AVIF").replace(b"ftypavif", b"ftypmif1", 1)
EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87"
FILES: dict[str, tuple[bytes, str, str]] = {
    "png": (picture("PNG"), "image/png", "png"),
    "jpeg": (picture("JPEG"), "image/jpeg", "jpg"),
    "webp": (picture("WEBP"), "image/webp", "webp"),
    "gif": (picture("GIF"), "image/gif", "gif"),
    "bmp": (picture("BMP"), "image/bmp", "bmp"),
    "tiff": (picture("TIFF"), "image/tiff", "tiff"),
    "avif": (picture("AVIF"), "image/avif", "avif"),
    "avif by a compatible brand": (MIF1, "image/avif", "avif"),
    "heic": (boxes(b"heic", b"mif1", b"heic"), "image/heic", "heic"),
    "heic by a compatible brand": (boxes(b"mif1", b"mif1", b"heic"), "image/heic", "heic"),
    "heif": (boxes(b"mif1", b"mif1"), "image/heif", "heif"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "application/x-svg", "svg"),
    "svg with a prolog": (b'<?xml version="1.0"?>\n<svg/>', "application/x-svg", "svg"),
    "mp4": (boxes(b"isom", b"isom", b"avc1", b"mp41"), "video/mp4", "mp4"),
    "mp4 version 2": (boxes(b"mp42", b"isom"), "video/mp4", "mp4"),
    "mov": (boxes(b"qt  "), "video/quicktime", "mov"),
    "webm": (EBML + bytes(200), "video/webm", "webm"),
    "m4a": (boxes(b"M4A ", b"mp42"), "audio/mp4", "m4a"),
    "mp3": (b"\xff\xfb\x90\x64" + bytes(413), "audio/mpeg", "mp3"),
    "mp3 of MPEG 2": (b"\xff\xf3\x40\xc4" + bytes(413), "audio/mpeg", "mp3"),
    "mp3 with a tag": (b"ID3\x04\0\0\0\0\0\x23TSSE" + bytes(400), "audio/mpeg", "mp3"),
    "wav": (sound(), "audio/wav", "wav"),
    "ogg": (b"OggS\0\x02" + bytes(20) + b"\x01\x1e\x01vorbis" + bytes(30), "audio/ogg", "ogg"),
    "flac": (b"fLaC\0\0\0\x22" + bytes(34), "audio/flac", "flac"),
}
NO_MEDIA = {
    "empty": b"",
    "text": b"hello",
    "html": b"<!doctype html><title>One moment</title><svg></svg>",
    "json": b'{"error_code": 404001}',
    "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "utf-16": "hello".encode("utf-16"),
    "zip": b"PK\3\4" + bytes(30),
    "pdf": b"%PDF-1.4",
    "riff of another kind": b"RIFF\x10\0\0\0ACONabcd",
}
Prove = Callable[..., str]


@pytest.fixture
def prove(tmp_path: Path) -> Prove:
    def prove(content: bytes, expected: MediaKind | None = None) -> str:
        path = tmp_path / "file"
        path.write_bytes(content)
        return prove_whole(path, expected)

    return prove


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_its_first_bytes_say(name: str):
    content, media_type, usual = FILES[name]
    assert media_type_of(content[:HEAD_BYTES]) == media_type
    assert extension(media_type) == usual


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "wav"])
def test_what_can_be_decoded_is_proved_whole(prove: Prove, name: str):
    content, media_type, _ = FILES[name]
    assert prove(content) == media_type


def test_a_video_is_proved_by_what_is_in_it_and_not_by_its_container(prove: Prove):
    assert prove(clip("mp4"), "video") == "video/mp4"
    with pytest.raises(BrokenOutput, match="broken video/mp4"):
        prove(FILES["mp4"][0])


@pytest.mark.parametrize("name", NO_MEDIA)
def test_what_is_no_media_is_refused(prove: Prove, name: str):
    assert media_type_of(NO_MEDIA[name]) == ""
    with pytest.raises(BrokenOutput, match="no picture, video or sound"):
        prove(NO_MEDIA[name])


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "avif", "mp4", "mov", "m4a", "wav"])
def test_a_file_cut_short_is_refused_wherever_it_is_cut(prove: Prove, name: str):
    content = FILES[name][0]
    for left in {len(content) - 5, len(content) - 13, len(content) // 2, len(content) // 3}:
        with pytest.raises(BrokenOutput, match=r"broken|cut short|cannot be decoded"):
            prove(content[:left])


def test_a_picture_with_a_flipped_bit_is_refused(prove: Prove):
    content = bytearray(FILES["png"][0])
    content[len(content) // 2] ^= 1
    with pytest.raises(BrokenOutput, match="broken image/png"):
        prove(bytes(content))


def test_a_decompression_bomb_is_refused(prove: Prove):
    with pytest.raises(BrokenOutput, match="broken image/png"):
        prove(bomb())


def test_a_bomb_beside_good_pictures_spoils_none_of_them(tmp_path: Path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(FILES["png"][0])
    bad.write_bytes(bomb())

    def fate(path: Path) -> str:
        try:
            return prove_whole(path, "image")
        except BrokenOutput:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fate, [good, bad] * 20)) == ["image/png", "refused"] * 20


@pytest.mark.parametrize(
    ("name", "expected"), [("png", "video"), ("mp4", "audio"), ("wav", "image")]
)
def test_another_kind_than_the_model_makes_is_refused(prove: Prove, name: str, expected: MediaKind):
    content = clip("mp4") if name == "mp4" else FILES[name][0]
    with pytest.raises(BrokenOutput, match=f"the model makes {expected}"):
        prove(content, expected)


def test_a_box_that_reaches_to_the_end_and_a_large_box_are_whole():
    start = box(b"ftyp", b"isom" + bytes(4))
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 99) + bytes(99)
    for content, is_cut in (
        (start + struct.pack(">I", 0) + b"mdat" + bytes(99), False),
        (start + large, False),
        (start + large[:-1], True),
    ):
        assert is_cut_short(io.BytesIO(content), content) == is_cut


def test_a_streamed_sound_has_no_length_to_be_held_to(prove: Prove):
    streamed = sound()[:4] + b"\xff\xff\xff\xff" + sound()[8:]
    assert prove(streamed) == "audio/wav"


@pytest.mark.parametrize(("media_type", "usual"), [("", "bin"), ("image/x-none", "bin")])
def test_an_unknown_type_has_a_neutral_extension(media_type: str, usual: str):
    assert extension(media_type) == usual


@given(st.binary(max_size=64) | st.sampled_from(sorted(FILES)).map(lambda n: FILES[n][0][:20]))
def test_no_bytes_break_the_recognition(head: bytes):
    found = media_type_of(head)
    assert found in {"", SVG} or found.startswith(("image", "video", "audio"))
    assert found != "image/svg+xml"


@pytest.mark.parametrize("name", ["cat.JPG", "https://host/a.b/cat.jpg", "x.jpeg", ".jpg"])
def test_a_name_claims_a_type(name: str):
    assert media_type_of_name(name) == "image/jpeg"


@pytest.mark.parametrize("name", ["", "cat", "cat.", "cat.bin", "a.jpg/cat", "film.mkv"])
def test_a_name_that_claims_nothing_is_believed_nothing(name: str):
    assert media_type_of_name(name) == ""


@pytest.mark.parametrize("made", [("ogg", None, "libopus"), ("webm", "libvpx")])
def test_a_fetched_recording_that_is_cut_short_is_refused(prove: Prove, made: tuple[str, str]):
    content = clip(*made)
    assert prove(content)
    with pytest.raises(BrokenOutput, match="cut short"):
        prove(content[:-9])
