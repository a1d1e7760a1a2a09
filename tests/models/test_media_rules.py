"""The rules that a model has for a medium itself."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.job import MediaInfo
from comfyline.models.media_rules import RuleCheck, check_rules
from tests.odd_json import JSON

# As the catalogue has them for an image model.
REAL = [
    ("file_size_mb<", 30, "File size must be less than 30 MB."),
    ("width/height>", 0.0625, "The aspect ratio range should be 1:16 to 16:1."),
    ("width/height<", 16, "The aspect ratio range should be 1:16 to 16:1."),
    ("width_pixels>", 14, "The uploaded image width and height must exceed 14 pixels."),
    ("height_pixels>", 14, "The uploaded image width and height must exceed 14 pixels."),
]


TOO_LARGE = "File size must be less than 30 MB"


def rule(name: Any, value: Any, error: Any = None) -> dict[str, Any]:
    return {"validation_rule": name, "validation_value": value, "validation_error": error}


def checked(*rules: dict[str, Any], size: int = 2**20, **look: Any) -> RuleCheck:
    return check_rules(list(rules), size, MediaInfo("image/png", **look))


@pytest.mark.parametrize(
    ("size", "width", "height", "broken"),
    [
        (30 * 2**20 - 1, 100, 200, []),
        (30 * 2**20, 100, 200, [f"{TOO_LARGE} (it has 30 MB)"]),
        (45 * 2**19, 14, 14, [f"{REAL[3][2][:-1]} (it has 14 × 14 pixels)"]),
        (
            33_000_000,
            20,
            340,
            [
                f"{TOO_LARGE} (it has 31.47 MB)",
                f"{REAL[1][2][:-1]} (it has 20 × 340 pixels, a ratio of 0.05882)",
            ],
        ),
    ],
)
def test_real_rules_are_told_in_their_own_words_with_what_was_measured(
    size: int, width: int, height: int, broken: list[str]
) -> None:
    found = checked(*(rule(*one) for one in REAL), size=size, width=width, height=height)

    assert list(found.broken) == broken
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("width<=", 100, True),
        ("width <", 100, False),
        ("WIDTH_PIXELS>=", "100", True),
        ("width/height=", "1:2", True),
        ("height/width==", 2, True),
        ("width_pixels*height_pixels<", 20_000, False),
        ("width+height<=", 300, True),
        ("pixels>", 20_000, False),
        ("megapixels<", 0.03, True),
        ("aspect_ratio!=", 0.5, False),
        ("max_side≤", 200, True),
        ("min_side≥", 101, False),
        ("duration<", 12.4, False),
        ("duration_seconds<=", 12.4, True),
        ("fps<=", 30, True),
        ("file_size_kb<", 1024, False),
        ("file_size_bytes<=", 2**20, True),
    ],
)
def test_other_names_of_the_same_shape_are_understood(name: str, value: Any, fits: bool) -> None:  # noqa: FBT001
    found = checked(rule(name, value), width=100, height=200, duration=12.4, fps=25.0)

    assert (found.broken == ()) is fits
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames<", 3), ("duration<", 3), ("width", 3), ("width~", 3), ("width/depth<", 3), ("", 3),
        *(("width<", limit) for limit in ("wide", None, True, [1], 10**400, float("nan"), "1:0")),
    ],
)  # fmt: skip
def test_a_rule_that_is_not_understood_refuses_nothing_and_is_named(name: str, value: Any) -> None:
    assert checked(rule(name, value), width=9, height=9) == RuleCheck((), (name,))


def test_a_rule_without_words_gets_some() -> None:
    found = checked(rule("fps<=", 24), rule("duration>", 3, ""), fps=25.0, duration=2.5)

    assert found.broken == (
        "fps must be at most 24 (it has 25 frames a second)",
        "duration must be more than 3 (it has 2.5 seconds)",
    )


NAMES = st.builds(
    str.__add__,
    st.sampled_from(["width", "height/width", "file_size_mb", "duration", "pixels", "é", "/", ""]),
    st.sampled_from(["<", "<=", "=", "==", ">", "!=", "<>", "=>", " ", ""]),
)


@given(
    validations=JSON | st.lists(st.builds(rule, NAMES | JSON, JSON, JSON) | JSON, max_size=4),
    size=st.integers(0, 2**70),
    width=st.none() | st.integers(0, 10**9),
    duration=st.none() | st.floats(allow_nan=False),
)
def test_no_rule_breaks_the_check(
    validations: Any, size: int, width: int | None, duration: float | None
) -> None:
    look = MediaInfo("video/mp4", width, width, duration, duration)

    found = check_rules(validations, size, look)

    assert all(isinstance(sentence, str) and sentence for sentence in found.broken)
