import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.config.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30m", 1800), ("90s", 90), ("6h", 21600), ("1h30m", 5400), ("1d", 86400), ("1.5h", 5400),
        (" 30m ", 1800), ("45", 45), (45, 45), (0.5, 0.5),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", " ", "m", "30 m", "1m1h", "-5s", "1e3", True, None, [1], "٣s"]
)
def test_anything_else_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="should be a duration such as"):
        parse_duration(written)


@given(st.integers(0, 10**9) | st.floats(0, 1e12))
def test_what_is_written_is_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_a_duration_is_written_as_people_write_it() -> None:
    assert [format_duration(s) for s in (5400, 90, 0, 0.25)] == ["1h30m", "1m30s", "0s", "0.25s"]
