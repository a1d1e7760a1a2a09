"""What a decoded file shows, whether it is whole, and which outputs are refused."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import BrokenOutput
from comfyline.job import MediaInfo, MediaKind
from comfyline.media.probe import check_whole, probe
from comfyline.media.types import HEAD_BYTES, media_type_of
from tests.media.clips import animation, bomb, clip, heic, picture

SOUNDS = {
    "m4a": (("mp4", None, "aac"), "audio/mp4"),
    "mp3": (("mp3", None, "libmp3lame"), "audio/mpeg"),
    "ogg": (("ogg", None, "libopus"), "audio/ogg"),
    "flac": (("flac", None, "flac"), "audio/flac"),
    "wav": (("wav", None, "pcm_s16le"), "audio/wav"),
    "webm": (("webm", None, "libopus"), "audio/webm"),
}
VIDEOS = {
    "mp4": (("mp4", "libx264", "aac"), "video/mp4"),
    "mov": (("mov", "libx264"), "video/quicktime"),
    "webm": (("webm", "libvpx"), "video/webm"),
    "avi": (("avi", "mpeg4"), "video/x-msvideo"),
}


def probed(content: bytes) -> MediaInfo:
    return probe(io.BytesIO(content), media_type_of(content[:HEAD_BYTES]))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64))])
def test_a_picture_has_the_size_that_a_viewer_sees(
    form: str, orientation: int, size: tuple[int, int]
) -> None:
    found = probed(picture(form, orientation=orientation))

    assert (found.width, found.height) == size
    assert found.flaw == ""
    # Pillow hands a TIFF out upright.
    assert found.orientation == (1 if form == "TIFF" else orientation)


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_shows_its_size_length_and_pace(name: str) -> None:
    made, media_type = VIDEOS[name]

    found = probed(clip(*made))

    assert (found.media_type, found.width, found.height) == (media_type, 64, 48)
    assert found.duration == pytest.approx(2, abs=0.1)
    assert found.fps == pytest.approx(12, abs=0.1)
    assert found.flaw == ""


@pytest.mark.parametrize(("rotation", "size"), [(90, (48, 64)), (180, (64, 48))])
def test_a_video_held_sideways_has_the_size_that_a_viewer_sees(
    rotation: int, size: tuple[int, int]
) -> None:
    assert (probed(clip(rotation=rotation)).width, probed(clip(rotation=rotation)).height) == size


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_shows_its_length_and_is_no_video_whatever_it_is_packed_in(name: str) -> None:
    made, media_type = SOUNDS[name]

    found = probed(clip(*made))

    assert (found.media_type, found.width, found.flaw) == (media_type, None, "")
    assert found.duration == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("left", [0.98, 0.2])
def test_a_picture_cut_short_is_found(form: str, left: float) -> None:
    content = picture(form)

    assert probed(content[: int(len(content) * left)]).flaw


@pytest.mark.parametrize("form", ["WEBP", "PNG", "GIF"])
def test_an_animation_is_read_to_its_last_frame(form: str) -> None:
    content = animation(form)

    assert probed(content) == MediaInfo(f"image/{form.lower()}", 64, 48)
    assert probed(content[: len(content) * 3 // 4]).flaw


def test_a_gif_without_its_last_byte_is_taken_as_every_browser_takes_it() -> None:
    assert probed(animation("GIF", frames=2)[:-1]).flaw == ""


@pytest.mark.parametrize(
    ("name", "left"),
    [("mp4", 0.999), ("mov", 0.6), ("webm", 0.6), ("avi", 0.6), ("webm", 0.1)]
    + [(name, 0.75) for name in ("m4a", "wav", "flac")],
)
def test_a_video_or_a_sound_cut_short_is_found(name: str, left: float) -> None:
    content = clip(*(SOUNDS | VIDEOS)[name][0])

    assert probed(content[: int(len(content) * left)]).flaw


def test_a_video_without_its_index_or_with_noise_for_frames_is_found() -> None:
    content = clip()
    data, moov = content.index(b"mdat") + 4, content.index(b"moov") - 4

    assert "is broken" in probed(content[:moov]).flaw
    assert "is broken" in probed(content[:data] + bytes(moov - data) + content[moov:]).flaw


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_bomb_is_not_decoded(form: str) -> None:
    assert probed(bomb(form)).flaw == "declares more pixels than can be decoded safely"


def test_a_photo_of_more_pixels_than_pillow_likes_is_no_bomb() -> None:
    """A JPEG is never decoded at its full size; phones take pictures of 200 million pixels."""
    wide = picture("JPEG", (64, 48)).replace(b"\0\x30\0\x40", b"\x40\0\x40\0", 1)

    assert probed(wide) == MediaInfo("image/jpeg", 16384, 16384)


def test_broken_exif_data_do_not_break_a_picture() -> None:
    content = picture("JPEG", orientation=6)
    at = content.index(b"Exif\0\0")

    found = probed(content[: at + 6] + b"\xff" * 12 + content[at + 18 :])

    assert (found.width, found.height, found.orientation, found.flaw) == (64, 48, 1, "")


def test_a_photo_of_a_phone_is_read_to_its_end() -> None:
    assert probed(heic()) == MediaInfo("image/heic", 64, 48)
    assert probed(heic()[:-10]).flaw == "is cut short: its header promises more bytes than it has"
    at = heic().index(b"hvcC")
    assert "is broken" in probed(heic()[:at] + bytes(60) + heic()[at + 60 :]).flaw


def test_what_promises_nothing_and_has_no_decoder_is_taken_as_it_is() -> None:
    sound = clip("wav", None, "pcm_s16le")

    assert probed(sound[:4] + b"\xff\xff\xff\xff" + sound[8:]).flaw == ""
    assert probed(b'<svg xmlns="http://www.w3.org/2000/svg"/>') == MediaInfo("application/x-svg")


WHOLE = [picture(form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")]
WHOLE += [clip(*made) for made, _ in (*VIDEOS.values(), *SOUNDS.values())] + [heic()]


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.sampled_from(WHOLE),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12)), max_size=6),
    end=st.floats(0, 1),
)
def test_whatever_happened_to_a_file_it_has_a_probed(
    content: bytes, cuts: list[tuple[float, bytes]], end: float
) -> None:
    damaged = bytearray(content)
    for place, noise in cuts:
        at = int(place * len(damaged))
        damaged[at : at + len(noise)] = noise

    found = probed(bytes(damaged[: int(end * len(damaged)) + 1]))

    assert found.flaw == "" or "\n" not in found.flaw
    assert found.width is None or found.width > 0


@pytest.mark.parametrize(
    ("content", "expected", "message"),
    [
        (picture("PNG"), "image", ""),
        (clip(), "video", ""),
        (clip("mp4", None, "aac"), "audio", ""),
        (picture("PNG")[:-20], None, "broken image/png"),
        (clip()[:-9], "video", "broken video/mp4: it is cut short"),
        (b"<html>One moment</html>", None, "not an image, video or sound"),
        (b"<svg/>", None, "SVG drawing"),
        (picture("PNG"), "video", "the model makes video"),
        (clip(), "audio", "the model makes audio"),
    ],
)
def test_an_output_has_to_be_whole_and_of_the_kind_that_the_model_makes(
    tmp_path: Path, content: bytes, expected: MediaKind | None, message: str
) -> None:
    path = tmp_path / "output"
    path.write_bytes(content)

    if not message:
        assert check_whole(path, expected).duration == probed(content).duration
        return
    with pytest.raises(BrokenOutput, match=message):
        check_whole(path, expected)
