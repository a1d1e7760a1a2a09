"""Inputs as people type them on a command line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.models.check import fit_inputs
from comfyline.models.dialect import explicit_media
from comfyline.models.entry import ModelEntry, UncheckedModel

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


@given(
    st.dictionaries(
        st.sampled_from(sorted(ENTRY.input_schema["properties"])),
        st.text(max_size=8) | st.lists(st.text(max_size=5), max_size=3) | st.none() | st.floats(),
    )
)
def test_no_text_breaks_the_reading(inputs: dict[str, Any]) -> None:
    assert fit_inputs(ENTRY, inputs).keys() == inputs.keys()


def test_only_what_says_that_it_is_media_is_media() -> None:
    inputs = {
        "prompt": "write to me@example.org about s3://",
        "image": "@photo.jpg",
        "shots": [{"clip": "s3://b/a.mp4"}, "@s3://b/c.mp4", "plain.jpg"],
        "url": "https://h.net/a.jpg",
        "handle": "@",
        "seed": 7,
    }

    assert list(explicit_media(inputs)) == [
        (("image",), "photo.jpg"),
        (("shots", 0, "clip"), "s3://b/a.mp4"),
        (("shots", 1), "s3://b/c.mp4"),
    ]


def test_without_a_schema_what_was_typed_stays_as_it_was_typed() -> None:
    typed = {"seed": "7", "image_urls": "@photo.jpg", "prompt": "x"}

    assert fit_inputs(UncheckedModel(model_id="acme/none"), typed) == typed
