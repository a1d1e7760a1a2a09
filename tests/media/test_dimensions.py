from pathlib import Path

import pytest

from comfyline.media import dimensions
from tests.media.clips import clip, picture


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_is_as_large_as_a_viewer_sees_it(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("JPEG", orientation=orientation))
    upright = dimensions(path, "image/jpeg")
    path.write_bytes(picture("JPEG"))
    plain = dimensions(path, "image/jpeg")

    sizes = [(look.width, look.height) for look in (upright, plain)]
    assert sizes[0] == (sizes[1] if orientation == 1 else sizes[1][::-1])
    assert sizes[1][0] != sizes[1][1]


def test_a_video_has_a_size_and_a_length(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(clip())

    look = dimensions(path, "video/mp4")

    assert look.width
    assert look.height
    assert look.duration


@pytest.mark.parametrize("media_type", ["image/png", "video/mp4", "image/svg+xml", "text/plain"])
def test_what_cannot_be_told_is_unknown_and_no_error(tmp_path: Path, media_type: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"nothing of the kind")

    look = dimensions(path, media_type)

    assert (look.width, look.height, look.duration) == (None, None, None)
