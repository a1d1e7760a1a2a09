"""Which copy of a picture is submitted, and what the copy is."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from comfyline.job import MediaInfo, Preparation
from comfyline.media.convert import (
    Bounds,
    Conversion,
    Unconvertible,
    conversion_for,
    convert,
    info_of_copy,
    too_many_pixels,
)
from comfyline.media.probe import probe
from comfyline.media.types import media_type_of
from comfyline.models.media_rules import bounds, check_rules
from tests.media.clips import heic, picture

FORMS = st.sampled_from(["jpeg", "png", "webp"])
SIDES = st.integers(1, 60_000)
LIMITS = st.none() | st.integers(1, 30_000)


def quarters(orientation: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture that is red above and blue below when it is seen upright, and 120 × 80."""
    upright = Image.new("RGB", (120, 80), "red")
    upright.paste("blue", (0, 40, 120, 80))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    turn |= {8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    kept = upright.transpose(turn[orientation]) if orientation in turn else upright
    buffer = io.BytesIO()
    kept.convert(mode).save(buffer, form, exif=exif.tobytes())
    return buffer.getvalue()


def converted(content: bytes, written: str) -> Image.Image:
    target = io.BytesIO()
    convert(io.BytesIO(content), media_type_of(content), Conversion.parse(written), target)
    return Image.open(target)


@pytest.mark.parametrize(
    ("form", "orientation", "written"),
    [
        ("JPEG", 1, "webp"),
        ("JPEG", 6, "jpeg"),
        ("PNG", 8, "png"),
        ("AVIF", 3, "webp"),
        ("TIFF", 6, "jpeg"),
    ],
)
def test_a_copy_is_upright_and_says_nothing_of_the_camera(
    form: str, orientation: int, written: str
) -> None:
    copy = converted(quarters(orientation, form), written)

    assert (copy.format, copy.size) == (written.upper(), (120, 80))
    assert dict(copy.getexif()) == {}
    red, _, blue = copy.convert("RGB").getpixel((60, 10))
    assert red > 200
    assert blue < 60


def test_a_photo_of_a_phone_becomes_what_was_promised() -> None:
    info = probe(io.BytesIO(heic()), "image/heic")
    conversion = Conversion.parse("webp<=32px")

    copy = converted(heic(), "webp<=32px")

    promised = info_of_copy(info, conversion)
    assert (promised.width, promised.height) == copy.size == (32, 24)
    assert (promised.media_type, promised.orientation) == ("image/webp", 1)
    assert copy.tobytes() == converted(heic(), "webp<=32px").tobytes()


def stored(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def test_colours_inks_bits_depths_and_what_is_transparent_are_seen_as_they_were() -> None:
    white = Image.new("L", (40, 40), 255)
    for content in (
        stored(white.convert("CMYK"), "JPEG"),
        stored(white.convert("1"), "BMP"),
        stored(Image.new("I;16", (40, 40), 65535), "TIFF"),
    ):
        for written in ("jpeg", "png", "webp"):
            low, _ = converted(content, written).convert("L").getextrema()
            assert low > 250
    clear = stored(Image.new("RGBA", (40, 40), (255, 0, 0, 0)), "TIFF")
    assert converted(clear, "jpeg").getpixel((20, 20)) == (255, 255, 255)
    assert converted(clear, "png").getpixel((20, 20))[3] == 0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red = stored(Image.new("RGB", (40, 40), "red"), "TIFF", icc_profile=profile)
    assert converted(red, "webp").info["icc_profile"] == profile


def test_a_copy_is_made_smaller_until_it_is_within_its_bytes() -> None:
    noise = picture("BMP", (600, 400))
    target = io.BytesIO()

    convert(io.BytesIO(noise), "image/bmp", Conversion("png", kilobytes=60), target)

    size = target.seek(0, io.SEEK_END)
    assert 20 * 1024 < size <= 60 * 1024
    copy = Image.open(target)
    assert copy.width / copy.height == pytest.approx(1.5, rel=0.02)


def test_what_cannot_be_decoded_is_said_in_words() -> None:
    with pytest.raises(Unconvertible, match="cannot be converted: "):
        converted(picture("TIFF")[:400], "jpeg")


@given(st.builds(Conversion, FORMS, LIMITS, LIMITS))
def test_a_conversion_is_read_back_as_it_was_written(conversion: Conversion) -> None:
    assert Conversion.parse(str(conversion)) == conversion


@pytest.mark.parametrize("written", ["", "gif", "jpeg<=px", "jpeg<=50GB", "png<=1MB<=4px"])
def test_nothing_else_is_a_conversion(written: str) -> None:
    with pytest.raises(ValueError, match="is not a conversion"):
        Conversion.parse(written)


@given(
    width=SIDES,
    height=SIDES,
    size=st.integers(1, 2**31),
    form=st.sampled_from(["image/heic", "image/jpeg", "image/png", "image/webp", "image/gif"]),
    limits=st.builds(Bounds, st.integers(2**20, 50 * 2**20), LIMITS, LIMITS, LIMITS, LIMITS),
)
def test_a_smaller_copy_is_within_every_bound(
    width: int, height: int, size: int, form: str, limits: Bounds
) -> None:
    info = MediaInfo(form, width, height)
    copy = conversion_for(info, size, Preparation("jpeg", downscale=True), limits)

    if copy is None:
        assert form != "image/heic"
        assert limits.hold(width, height)
        assert size <= limits.bytes
        return
    seen = info_of_copy(info, copy)
    assert seen.width
    assert seen.height
    assert limits.hold(seen.width, seen.height) or max(seen.width, seen.height) == 1
    assert too_many_pixels(info, copy) == "" or seen.width * seen.height <= 100_000_000
    assert size <= limits.bytes or (copy.kilobytes or 0) * 1024 <= limits.bytes


def test_the_copy_of_a_photo_of_a_phone_is_the_same_job_with_and_without_downscale() -> None:
    """Who adds the option for one large picture must not pay for all the others again."""
    photo = MediaInfo("image/heic", 6048, 4024)
    copies = {
        str(conversion_for(photo, 2**22, Preparation("jpeg", downscale=down), Bounds()))
        for down in (False, True)
    }

    assert copies == {"jpeg"}


@pytest.mark.parametrize(
    ("side", "form", "said"),
    [(20_000, "jpeg", "has more than 100 million pixels"), (17_000, "webp", "16,383 pixels")],
)
def test_what_no_copy_can_hold_is_told_unless_it_is_made_smaller(
    side: int, form: str, said: str
) -> None:
    info = MediaInfo("image/heic", side, 100 if form == "webp" else side)

    plain = conversion_for(info, 1, Preparation(form), Bounds())
    smaller = conversion_for(info, 1, Preparation(form, downscale=True), Bounds())

    assert plain
    assert smaller
    assert said in too_many_pixels(info, plain)
    assert too_many_pixels(info, smaller) == ""
    assert smaller.size_of(side, side)[0] <= 16_383


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("file_size_mb<", 30, Bounds(bytes=30 * 2**20 - 1)),
        ("file_size_mb<=", 300, Bounds()),
        ("width_pixels<=", 4096, Bounds(width=4096)),
        ("height<", 4096, Bounds(height=4095)),
        ("max_side<=", "2048", Bounds(longest=2048)),
        ("width*height<=", 36_000_000, Bounds(pixels=36_000_000)),
        ("megapixels<=", 36, Bounds(pixels=36_000_000)),
        ("width/height<", 16, Bounds()),
        ("width_pixels>", 14, Bounds()),
        ("width<=", 0, Bounds()),
    ],
)
def test_the_bounds_of_a_copy_are_those_that_the_model_judges_by(
    rule: str, value: object, expected: Bounds
) -> None:
    rules = [{"validation_rule": rule, "validation_value": value}]

    assert bounds(rules) == expected
    if expected.width or expected.height or expected.longest:
        side = expected.width or expected.height or expected.longest or 0
        assert not check_rules(rules, 1, MediaInfo("image/png", side, side)).broken
        assert check_rules(rules, 1, MediaInfo("image/png", side + 1, side + 1)).broken
