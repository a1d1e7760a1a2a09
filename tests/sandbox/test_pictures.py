"""The pictures that the sandbox makes."""

import io
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.conftest import Sandbox

OFFICE = "Change the scene to a modern office, soft daylight, background only."


def opened(content: bytes):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def distance(one: Image.Image, other: Image.Image):
    size = (128, 128)
    pair = [picture.convert("RGB").resize(size) for picture in (one, other)]
    return sum(ImageStat.Stat(ImageChops.difference(*pair)).mean) / 3


def test_the_same_order_gives_the_same_bytes_and_another_prompt_or_input_another_picture(
    sandbox: Sandbox, files: str
):
    first = sandbox.picture(OFFICE, f"{files}/cat.jpg")
    assert sandbox.picture(OFFICE, f"{files}/cat.jpg?signed=differently") == first
    assert sandbox.picture("a beach", f"{files}/cat.jpg") != first
    assert sandbox.picture(OFFICE, f"{files}/wide.jpg") != first


def test_the_edit_is_visible_and_the_subject_stays(sandbox: Sandbox, files: str):
    before = opened(sandbox.open.get(f"{files}/cat.jpg").content)
    after = opened(sandbox.picture(OFFICE, f"{files}/cat.jpg"))
    night = opened(sandbox.picture("the city at night", f"{files}/cat.jpg"))
    assert distance(before, after) > 20
    assert distance(after, night) > 30

    def middle(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        return picture.crop((width * 2 // 5, height // 2, width * 3 // 5, height * 3 // 4))

    assert distance(middle(before), middle(after)) < 45


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"aspect_ratio": "auto"}, (256, 128)),
        ({"aspect_ratio": "1:1"}, (256, 256)),
        ({"aspect_ratio": "16:9"}, (256, 144)),
        ({"aspect_ratio": "9:16", "resolution": "2K"}, (288, 512)),
        ({"aspect_ratio": "21:9", "resolution": "4K"}, (1024, 439)),
    ],
)
def test_aspect_ratio_and_resolution_are_honoured(
    sandbox: Sandbox, files: str, settings: dict[str, Any], size: tuple[int, int]
):
    assert opened(sandbox.picture(OFFICE, f"{files}/wide.jpg", **settings)).size == size


def test_auto_takes_the_ratio_after_the_exif_orientation(sandbox: Sandbox, files: str):
    assert opened(sandbox.picture(OFFICE, f"{files}/turned.jpg", aspect_ratio="auto")).size == (
        128,
        256,
    )


@pytest.mark.parametrize(
    ("word", "extension", "media_type"),
    [("png", "png", "PNG"), ("jpeg", "jpg", "JPEG"), ("webp", "webp", "WEBP")],
)
def test_output_format_is_honoured(
    sandbox: Sandbox, files: str, word: str, extension: str, media_type: str
):
    done = sandbox.finish(sandbox.submit(OFFICE, f"{files}/cat.jpg", output_format=word))
    url = done["output"]["images"][0]
    assert url.endswith(f"/0.{extension}")
    answer = sandbox.open.get(url)
    assert answer.headers["content-type"] == f"image/{word}"
    assert opened(answer.content).format == media_type


def test_num_images_gives_that_many_variations(sandbox: Sandbox, files: str):
    done = sandbox.finish(sandbox.submit(OFFICE, f"{files}/cat.jpg", num_images=4))
    assert len(set(sandbox.download(done))) == 4


def test_further_inputs_and_a_redirected_one_are_used(sandbox: Sandbox, files: str):
    alone = sandbox.picture(OFFICE, f"{files}/cat.jpg")
    both = sandbox.picture(OFFICE, f"{files}/cat.jpg", f"{files}/moved.jpg")
    assert alone != both
