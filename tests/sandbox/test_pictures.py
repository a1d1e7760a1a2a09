"""The pictures that the sandbox makes."""

import io
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Sandbox

OFFICE = "Change the scene to a modern office, soft daylight, background only."


def opened(content: bytes):
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def test_the_same_order_gives_the_same_bytes_and_another_prompt_or_input_another_picture(
    sandbox: Sandbox, files: str
):
    first = sandbox.picture(OFFICE, f"{files}/cat.jpg")
    assert sandbox.picture(OFFICE, f"{files}/cat.jpg?signed=differently") == first
    assert sandbox.picture("a beach", f"{files}/cat.jpg") != first
    assert sandbox.picture(OFFICE, f"{files}/wide.jpg") != first


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("wide", {"aspect_ratio": "auto"}, (256, 128)),
        # By its EXIF orientation.
        ("turned", {"aspect_ratio": "auto"}, (128, 256)),
        ("wide", {"aspect_ratio": "9:16", "resolution": "2K"}, (288, 512)),
        ("wide", {"aspect_ratio": "21:9", "resolution": "4K"}, (1024, 439)),
    ],
)
def test_aspect_ratio_and_resolution_are_honoured(
    sandbox: Sandbox, files: str, name: str, settings: dict[str, Any], size: tuple[int, int]
):
    assert opened(sandbox.picture(OFFICE, f"{files}/{name}.jpg", **settings)).size == size


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


def test_each_of_several_outputs_and_each_further_input_is_seen(sandbox: Sandbox, files: str):
    done = sandbox.finish(sandbox.submit(OFFICE, f"{files}/cat.jpg", num_images=2))
    moved = sandbox.picture(OFFICE, f"{files}/cat.jpg", f"{files}/moved.jpg")
    assert len({*sandbox.download(done), moved}) == 3
