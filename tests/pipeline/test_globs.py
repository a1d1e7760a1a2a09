"""Objects fit a pattern exactly when a file of that name would be found by it."""

import glob
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.pipeline.sources import alternatives, fits, natural

NAMES = [
    "a.jpg",
    "b.png",
    "a/a.jpg",
    "a/b.png",
    "a/b/a.jpg",
    ".a/a.jpg",
    "a/.b.jpg",
    "b/ab",
    "b/[a]",
]
PARTS = st.sampled_from(["a", "b", "*", "**", "?", "*.jpg", "[ab].*", "[!a]*", ".*", "a*", "[[]a]"])


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        for one in NAMES:
            path = Path(name, one)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield Path(name)


@given(parts=st.lists(PARTS, min_size=1, max_size=4))
def test_objects_fit_a_pattern_as_files_do(folder: Path, parts: list[str]) -> None:
    pattern = "/".join(parts)
    as_files = {
        one
        for one in glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
        if (folder / one).is_file()
    }

    assert {name for name in NAMES if fits(pattern, name)} == as_files


def test_braces_are_alternatives_also_inside_each_other() -> None:
    assert set(alternatives("a/{b,c{1,2}}.x")) == {"a/b.x", "a/c1.x", "a/c2.x"}
    assert alternatives("a/{b}.x") == ["a/{b}.x"]


@given(st.lists(st.text(max_size=5)))
def test_any_names_have_one_natural_order(names: list[str]) -> None:
    backwards = list(reversed(names))

    assert sorted(names, key=natural) == sorted(backwards, key=natural)


def test_numbers_count_in_the_natural_order() -> None:
    assert sorted(["p10", "p2", "P1", "p²"], key=natural) == ["P1", "p2", "p10", "p²"]
