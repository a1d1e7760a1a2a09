from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin

from comfyline.media.probe import probe
from comfyline.media.types import HEAD_BYTES, media_type_of
from comfyline.report import thumbnails
from comfyline.report.thumbnails import NEUTRAL, make_thumbnail


def near(colour: Any, expected: Any):
    return all(abs(one - other) < 12 for one, other in zip(colour, expected, strict=True))


def small(source: Path) -> Image.Image | None:
    """What is made of a picture; None for none."""
    target = source.parent / "new" / "t.jpg"
    make_thumbnail(source, target)
    if not target.exists():
        assert not target.parent.exists() or [*target.parent.iterdir()] == []
        return None
    with Image.open(target) as made:
        made.load()
    assert made.format == "JPEG"
    assert [*target.parent.iterdir()] == [target]
    return made


@pytest.mark.parametrize(
    ("mode", "size", "name", "becomes"),
    [
        ("RGB", (800, 400), "a.png", (360, 180)),
        # It is not blown up.
        ("RGB", (20, 10), "a.webp", (20, 10)),
        ("L", (400, 40), "a.png", (360, 36)),
        ("1", (400, 40), "a.png", (360, 36)),
        ("CMYK", (400, 40), "a.tif", (360, 36)),
        ("I;16", (400, 40), "a.png", (360, 36)),
    ],
)
def test_a_picture_becomes_a_small_jpeg_in_its_own_shape(
    tmp_path: Path, mode: str, size: tuple[int, int], name: str, becomes: tuple[int, int]
):
    Image.new(mode, size).save(tmp_path / name)

    made = small(tmp_path / name)
    assert made is not None
    assert made.size == becomes


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_the_orientation_in_the_exif_data_is_applied_and_the_data_dropped(
    tmp_path: Path, name: str
):
    photo = Image.new("RGB", (80, 40), "blue")
    photo.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: what is left comes to the top
    exif[0x010E] = "at home"
    photo.save(tmp_path / name, exif=exif, quality=95)

    made = small(tmp_path / name)
    assert made is not None
    assert made.size == (40, 80)
    assert near(made.getpixel((20, 10)), (254, 0, 0))
    assert not made.getexif()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_neutral_ground(tmp_path: Path, mode: str):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    (clear.quantize(4) if mode == "P" else clear.convert(mode)).save(tmp_path / "a.png")

    made = small(tmp_path / "a.png")
    assert made is not None
    assert near(made.getpixel((20, 20)), NEUTRAL)


def test_sixteen_bits_of_grey_are_not_blown_out_to_white(tmp_path: Path):
    Image.new("I;16", (40, 40), 30000).save(tmp_path / "depth.png")

    made = small(tmp_path / "depth.png")
    assert made is not None
    assert near(made.getpixel((20, 20)), (117, 117, 117))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x00\x18ftypmp42 a video", b"ID3 a song", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_what_is_no_picture_has_no_thumbnail(tmp_path: Path, content: bytes):
    (tmp_path / "a.bin").write_bytes(content)

    assert small(tmp_path / "a.bin") is None


def test_no_other_program_is_started_for_an_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    eps = tmp_path / "a.png"
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")

    assert small(eps) is None
    with eps.open("rb") as file:
        probe(file, media_type_of(file.read(HEAD_BYTES)))
    assert started == []


def test_a_file_that_is_gone_or_cut_short_has_no_thumbnail(tmp_path: Path):
    Image.effect_noise((300, 300), 90).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])

    assert small(tmp_path / "cut.png") is None
    assert small(tmp_path / "none.png") is None


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_its_pixels_are_made(tmp_path: Path, side: int):
    with (tmp_path / "bomb.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        size = side.to_bytes(4, "big") * 2
        PngImagePlugin.putchunk(file, b"IHDR", size + b"\x08\x02\x00\x00\x00")
        PngImagePlugin.putchunk(file, b"IDAT", b"x")

    assert small(tmp_path / "bomb.png") is None


def test_a_huge_photo_is_decoded_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 1_000_000)
    photo = Image.new("RGB", (1600, 1600), "green")
    photo.save(tmp_path / "a.png")
    assert small(tmp_path / "a.png") is None

    photo.save(tmp_path / "a.jpg")
    made = small(tmp_path / "a.jpg")
    assert made is not None
    assert made.size == (360, 360)


def test_a_thumbnail_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "t.jpg").mkdir()

    with pytest.raises(OSError, match=r"t\.jpg"):
        make_thumbnail(tmp_path / "a.png", tmp_path / "t.jpg")
    assert list(tmp_path.glob(".*")) == []
