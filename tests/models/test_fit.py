"""Inputs as people type them on a command line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.models.check import fit_inputs
from comfyline.models.entry import ModelEntry

ENTRY = ModelEntry(
    model_id="acme/edit",
    input_schema={
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "part": {"type": "float"},
            "is_on": {"type": "boolean"},
            "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "numbers": {"type": "array", "items": {"type": "integer"}},
            "options": {"type": "object"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "anything": {},
            "image": {"type": "string", "format": "image_uri"},
            "images": {"type": "array", "format": "image_uris"},
        }
    },
)


@pytest.mark.parametrize(
    ("name", "typed", "fitted"),
    [
        ("text", "5", "5"),
        ("count", "5", 5),
        ("count", "five", "five"),
        ("part", "0.5", 0.5),
        ("is_on", "true", True),
        ("seed", "7", 7),
        ("seed", "null", None),
        ("numbers", "3", [3]),
        ("numbers", ["3", "4"], [3, 4]),
        ("numbers", "[3, 4]", [3, 4]),
        ("options", '{"a": 1}', {"a": 1}),
        ("either", "5", "5"),
        ("anything", "5", "5"),
        ("image", "@a.jpg", "a.jpg"),
        ("images", "@a.jpg", ["a.jpg"]),
        ("images", ["@a.jpg", "s3://b/c.jpg"], ["a.jpg", "s3://b/c.jpg"]),
        ("text", "@a.jpg", "@a.jpg"),
        ("unknown", "5", "5"),
    ],
)
def test_text_is_read_as_what_is_due(name: str, typed: Any, fitted: Any) -> None:
    assert fit_inputs(ENTRY, {name: typed}) == {name: fitted}


def test_what_is_nested_without_end_is_left_as_it_is() -> None:
    deep: Any = "@a.jpg"
    for _ in range(5000):
        deep = [deep]

    assert fit_inputs(ENTRY, {"images": deep, "image": "@a.jpg"})["image"] == "@a.jpg"
    assert fit_inputs(ENTRY, {"numbers": "[" * 5000}) == {"numbers": ["[" * 5000]}


@given(
    st.dictionaries(
        st.sampled_from(sorted(ENTRY.input_schema["properties"])),
        st.text(max_size=8) | st.lists(st.text(max_size=5), max_size=3) | st.none() | st.floats(),
    )
)
def test_no_text_breaks_the_reading(inputs: dict[str, Any]) -> None:
    assert fit_inputs(ENTRY, inputs).keys() == inputs.keys()
