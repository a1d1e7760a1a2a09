"""What counts as the same picture, as nearly the same, as another one, and as nothing at all."""

import io
from pathlib import Path
from typing import Any, Protocol

import av
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from comfyline.media.similar import Appearance, appearance
from tests.media.clips import clip, heic, picture

SAMPLES = Path(__file__).parents[2] / "configs/samples"


class Looks(Protocol):
    """Looks at a picture, or at a file's content."""

    def __call__(
        self, picture: Image.Image | bytes, form: str = "PNG", **options: Any
    ) -> Appearance: ...


@pytest.fixture
def seen(tmp_path: Path) -> Looks:
    def look(picture: Image.Image | bytes, form: str = "PNG", **options: Any) -> Appearance:
        path = tmp_path / "picture"
        if isinstance(picture, bytes):
            path.write_bytes(picture)
        else:
            picture.save(path, form, **options)
        found = appearance(path)
        assert found is not None
        return found

    return look


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(SAMPLES / "cat.jpg") as opened:
        return opened.convert("RGB")


def test_another_size_format_or_quality_is_the_same_picture(
    seen: Looks, photo: Image.Image
) -> None:
    original = seen(photo)
    small = photo.resize((photo.width // 2, photo.height // 2))

    for again in (seen(photo, "JPEG", quality=60), seen(small, "WEBP"), seen(photo, "AVIF")):
        assert original.is_near(again)
        assert original.is_same(again)


def test_a_change_in_one_place_is_near_and_not_the_same(seen: Looks, photo: Image.Image) -> None:
    changed = photo.copy()
    side = photo.width // 10
    ImageDraw.Draw(changed).rectangle((0, 0, side, side), fill=(0, 255, 0))

    assert seen(photo).is_near(seen(changed))
    assert not seen(photo).is_same(seen(changed))


def test_other_pictures_colours_and_shapes_are_not_near(seen: Looks, photo: Image.Image) -> None:
    original = seen(photo)
    others = [path for path in sorted(SAMPLES.glob("*.jpg")) if path.name != "cat.jpg"]
    assert others
    looks = [appearance(path) for path in others]
    looks.append(seen(Image.merge("RGB", photo.split()[::-1])))
    looks.append(seen(ImageEnhance.Brightness(photo).enhance(0.6)))
    looks.append(seen(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    looks.append(seen(photo.crop((0, 0, photo.width, photo.height // 2))))

    assert not [look for look in looks if look is None or original.is_near(look)]


def test_a_turned_photo_is_seen_upright(seen: Looks, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = seen(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif.tobytes())

    assert (turned.width, turned.height) == photo.size
    assert turned.is_same(seen(photo))


@pytest.mark.parametrize(
    ("colour", "form"), [("white", "PNG"), ("black", "JPEG"), ((12, 200, 90), "WEBP")]
)
def test_one_colour_all_over_is_blank(seen: Looks, colour: object, form: str) -> None:
    assert seen(Image.new("RGB", (640, 480), colour), form).is_blank
    assert seen(Image.effect_noise((64, 64), 90).convert("RGBA").point(lambda _: 0)).is_blank


def test_a_small_thing_on_white_or_a_faint_gradient_is_not_blank(seen: Looks) -> None:
    thing = Image.new("RGB", (1000, 1000), "white")
    ImageDraw.Draw(thing).ellipse((480, 480, 520, 520), fill="black")
    gradient = Image.linear_gradient("L").point(lambda value: 200 + value // 16)

    assert not seen(thing, "JPEG").is_blank
    assert not seen(gradient).is_blank
    assert not seen(heic()).is_blank


def film(*colours: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, colour in enumerate(colours):
            still = Image.effect_noise((64, 48), 80) if colour == "noise" else None
            image = still or Image.new("RGB", (64, 48), colour)
            frame = av.VideoFrame.from_image(image.convert("RGB"))
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def test_a_film_is_blank_when_its_whole_beginning_is_and_not_when_it_fades_in(seen: Looks) -> None:
    assert seen(film(*["black"] * 8)).is_blank
    assert not seen(film("black", "black", "noise")).is_blank
    turned = seen(clip(rotation=90))
    assert (turned.width, turned.height) == (48, 64)


def test_a_sound_and_what_is_broken_have_no_appearance(tmp_path: Path) -> None:
    for content in (clip("mp3", None, "libmp3lame"), picture("PNG")[:100], b"text", clip()[:400]):
        (tmp_path / "file").write_bytes(content)
        assert appearance(tmp_path / "file") is None
