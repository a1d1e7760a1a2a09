from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from comfyline.report import thumbnails
from comfyline.report.thumbnails import NEUTRAL, make_thumbnail


def near(colour: Any, expected: Any):
    return all(abs(one - other) < 12 for one, other in zip(colour, expected, strict=True))


def test_a_picture_becomes_a_small_jpeg_in_its_own_shape(tmp_path: Path):
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.png")

    assert make_thumbnail(tmp_path / "a.png", tmp_path / "new" / "a.jpg") == (360, 180)
    with Image.open(tmp_path / "new" / "a.jpg") as small:
        assert (small.format, small.size) == ("JPEG", (360, 180))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.jpg"]


def test_a_small_picture_is_not_blown_up(tmp_path: Path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.webp")

    assert make_thumbnail(tmp_path / "a.webp", tmp_path / "a.jpg") == (20, 10)


def test_the_orientation_in_the_exif_data_is_applied_and_the_data_dropped(tmp_path: Path):
    photo = Image.new("RGB", (80, 40), "blue")
    photo.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: what is left comes to the top
    exif[0x010E] = "at home"
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)

    assert make_thumbnail(tmp_path / "a.jpg", tmp_path / "t.jpg") == (40, 80)
    with Image.open(tmp_path / "t.jpg") as small:
        assert near(small.getpixel((20, 10)), (254, 0, 0))
        assert not small.getexif()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_neutral_ground(tmp_path: Path, mode: str):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    if mode == "P":
        clear.quantize(4).save(tmp_path / "a.png")
    else:
        clear.convert(mode).save(tmp_path / "a.png")

    make_thumbnail(tmp_path / "a.png", tmp_path / "t.jpg")
    with Image.open(tmp_path / "t.jpg") as small:
        assert near(small.getpixel((20, 20)), NEUTRAL)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "I;16"])
def test_other_kinds_of_pixels_are_shown_too(tmp_path: Path, mode: str):
    source = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (400, 40)).save(source)

    assert make_thumbnail(source, tmp_path / "t.jpg") == (360, 36)


def test_sixteen_bits_of_grey_are_not_blown_out_to_white(tmp_path: Path):
    Image.new("I;16", (40, 40), 30000).save(tmp_path / "depth.png")

    make_thumbnail(tmp_path / "depth.png", tmp_path / "t.jpg")
    with Image.open(tmp_path / "t.jpg") as small:
        assert near(small.getpixel((20, 20)), (117, 117, 117))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x00\x18ftypmp42 a video", b"ID3 a song", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_what_is_no_picture_has_no_thumbnail(tmp_path: Path, content: bytes):
    (tmp_path / "a.bin").write_bytes(content)

    assert make_thumbnail(tmp_path / "a.bin", tmp_path / "t.jpg") is None
    assert not (tmp_path / "t.jpg").exists()


def test_a_file_that_is_gone_or_cut_short_has_no_thumbnail(tmp_path: Path):
    noise = Image.effect_noise((300, 300), 90)
    noise.save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])

    assert make_thumbnail(tmp_path / "cut.png", tmp_path / "t.jpg") is None
    assert make_thumbnail(tmp_path / "none.png", tmp_path / "t.jpg") is None
    assert [file.name for file in tmp_path.glob("*t.jpg*")] == []


def test_a_decompression_bomb_is_refused_before_its_pixels_are_made(tmp_path: Path):
    head = b"\x89PNG\r\n\x1a\n"
    for name, side in (("large", 10_000), ("bomb", 60_000)):
        ihdr = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
        with (tmp_path / f"{name}.png").open("wb") as file:
            file.write(head)
            PngImagePlugin.putchunk(file, b"IHDR", ihdr)
            PngImagePlugin.putchunk(file, b"IDAT", b"x")

        assert make_thumbnail(tmp_path / f"{name}.png", tmp_path / "t.jpg") is None


def test_a_huge_photo_is_decoded_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 1_000_000)
    Image.new("RGB", (3000, 3000), "green").save(tmp_path / "a.jpg")
    Image.new("RGB", (3000, 3000), "green").save(tmp_path / "a.png")

    assert make_thumbnail(tmp_path / "a.jpg", tmp_path / "t.jpg") == (360, 360)
    assert make_thumbnail(tmp_path / "a.png", tmp_path / "u.jpg") is None


def test_a_thumbnail_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "t.jpg").mkdir()

    with pytest.raises(OSError, match=r"t\.jpg"):
        make_thumbnail(tmp_path / "a.png", tmp_path / "t.jpg")
    assert list(tmp_path.glob(".*")) == []
