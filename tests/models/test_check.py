"""Mistakes in a model's inputs in words, and what people type read as what is due."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.models.check import check_inputs, find_mistakes, fit_inputs
from comfyline.models.describe import example_step, input_fields
from comfyline.models.dialect import explicit_media
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.yaml.file import field_path
from tests.odd_json import JSON, SCHEMAS

SCHEMA = {
    "type": "object",
    "required": ["prompt", "image_urls"],
    "properties": {
        "prompt": {"type": "string", "default": "an example"},
        "image_urls": {
            "type": "array",
            "items": {"type": "string", "format": "image_uri"},
            "maxItems": 2,
            "minItems": 1,
            "default": ["https://example.com/a.png"],
        },
        "aspect_ratio": {"type": "string", "enum": ["auto", "21:9", "16:9", "1:1"]},
        "num_images": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "strength": {"type": "float", "exclusiveMinimum": 0},
        "sync_mode": {"type": "boolean"},
        "mask": {"anyOf": [{"type": "string", "format": "image_uri"}, {"type": "null"}]},
        "options": {"type": "object", "properties": {"seed": {"type": "integer"}}},
    },
}
RIGHT = {"prompt": "p", "image_urls": ["a.jpg"]}


def entry(schema: Any) -> ModelEntry:
    return ModelEntry(model_id="some/model", input_schema=schema)


def said(schema: Any, inputs: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in check_inputs(entry(schema), inputs)]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (
            {"aspect_ratio": "16x9"},
            "aspect_ratio: '16x9' is not one of auto, 21:9, 16:9, 1:1; did you mean `16:9`?",
        ),
        ({"promt": "x"}, "promt: the model has no such field; did you mean `prompt`?"),
        ({"num_images": 9}, "num_images: 9 is too large; the maximum is 4"),
        ({"num_images": 0}, "num_images: 0 is too small; the minimum is 1"),
        ({"num_images": True}, "num_images: should be a whole number, not true"),
        (
            {"num_images": None},
            "num_images: should be a whole number, not nothing (null); leave it out",
        ),
        ({"strength": 0}, "strength: 0 is too small; it must be more than 0"),
        ({"image_urls": []}, "image_urls: has 0 entries, which is too few; the minimum is 1"),
        (
            {"image_urls": ["a"] * 3},
            "image_urls: has 3 entries, which is too many; the maximum is 2",
        ),
        ({"image_urls": [""]}, "image_urls[0]: is empty"),
        (
            {"aspect_ratio": 3},
            "aspect_ratio: should be text, not a number (3); it is one of auto, 21:9, 16:9, 1:1",
        ),
        ({"mask": 3}, "mask: should be text, not a number (3); write it in quotes"),
        ({"options": {"sed": 1}}, "options.sed: the model has no such field; did you mean `seed`?"),
    ],
)
def test_a_mistake_is_a_sentence(inputs: dict[str, Any], expected: str) -> None:
    assert said(SCHEMA, RIGHT | inputs) == [expected]


@pytest.mark.parametrize(
    ("schema", "inputs"),
    [
        (SCHEMA, RIGHT | {"aspect_ratio": "1:1", "num_images": 4, "strength": 0.5}),
        (SCHEMA, RIGHT | {"mask": None, "options": {"seed": 1}}),
        ({**SCHEMA, "additionalProperties": True}, RIGHT | {"x": 1}),
        ({}, {"anything": 1}),
        # Floating point would refuse it.
        ({"properties": {"x": {"type": "float", "multipleOf": 0.1}}}, {"x": 0.3}),
        # What is said of a media URL does not apply to a path.
        (
            {"properties": {"x": {"format": "image_uri", "pattern": "^https:", "maxLength": 3}}},
            {"x": "photo.jpg"},
        ),
    ],
)
def test_what_fits_has_no_mistakes(schema: Any, inputs: dict[str, Any]) -> None:
    assert said(schema, inputs) == []


def test_no_example_is_filled_in_for_what_is_required() -> None:
    found = [p.where for p in check_inputs(entry(SCHEMA), {"num_images": 9, "x": 1})]

    assert found == ["image_urls", "num_images", "prompt", "x"]


@pytest.mark.parametrize(
    ("choices", "value", "hint"),
    [
        (["auto", "21:9", "16:9", "9:16"], "16x9", "; did you mean `16:9`?"),
        (["auto", "21:9", "16:9", "9:16"], "9-16", "; did you mean `9:16`?"),
        (["auto", "21:9", "16:9"], "16:10", "; did you mean `16:9`?"),
        (["auto", "16:9"], "Auto", "; did you mean `auto`?"),
        (["480p", "720p", "1080p"], "1080", "; did you mean `1080p`?"),
        (["480p", "720p", "1080p"], 720, "; did you mean `720p`?"),
        (["png", "jpeg"], "jpg", "; did you mean `jpeg`?"),
        (["5", "10"], 5, '; did you mean `"5"`?'),
        (["1024x1024", "1536x1024"], "1536*1024", "; did you mean `1536x1024`?"),
        (["auto", "b"], "landscape", "'landscape' is not one of auto, b"),
    ],
)
def test_the_value_that_was_meant_is_named(choices: list[Any], value: Any, hint: str) -> None:
    [told] = said({"properties": {"x": {"enum": choices}}}, {"x": value})

    assert told.endswith(hint)


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        ("integer", "5 seconds", "did you mean `5`?"),
        ("integer", 4.6, "did you mean `5`?"),
        ("integer", "2", "write it without quotes: `2`"),
        ("float", "0.5", "write it without quotes: `0.5`"),
        ("boolean", "yes", "write `true`: yes is a text in YAML 1.2"),
        ("boolean", "False", "write it without quotes: `false`"),
        ("integer", "1_000", "write `1000`, without separators"),
        ("boolean", 0, "did you mean `false`?"),
        ("number", [1], ""),
        ("string", 5, "write it in quotes"),
        ("string", True, "write it in quotes"),
        ("array", "a.jpg", "write it as a list: `[a.jpg]`"),
        ("integer", "many", ""),
        ("object", 3, ""),
    ],
)
def test_a_value_of_the_wrong_type_is_told_how_to_write_it(
    kind: str, value: Any, hint: str
) -> None:
    [mistake] = find_mistakes(entry({"properties": {"x": {"type": kind}}}), {"x": value})

    assert mistake.hint == hint


def test_a_mistake_points_into_the_inputs() -> None:
    [mistake] = find_mistakes(entry(SCHEMA), {**RIGHT, "image_urls": ["a", 3]})

    assert mistake.pointer == ("image_urls", 1)
    assert field_path(("a", 0, "b")) == "a[0].b"
    assert field_path(()) == "input"


def test_no_pattern_can_hang_a_run() -> None:
    field = {"type": "string", "pattern": r"^(\w+\s?)+$"}
    began = time.process_time()

    [told] = said({"properties": {"x": field}}, {"x": "a" * 5000 + "!"})

    assert time.process_time() - began < 2
    assert told.endswith(r"… does not match the pattern '^(\\w+\\s?)+$'")


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(", "([ab]{1,100}){100}c"])
def test_a_pattern_that_may_take_long_is_left_to_runcomfy(pattern: str) -> None:
    schema = {"properties": {"x": {"anyOf": [{"type": "string", "pattern": pattern}]}}}

    assert said(schema, {"x": "ab" * 50_000}) == []


def test_what_is_no_json_is_a_mistake_where_it_stands() -> None:
    fields = {"a": {"type": "number"}, "b": {"minLength": 9}}

    assert said({"properties": fields}, {"a": float("nan"), "b": "\ud800"}) == [
        "b: contains something that JSON cannot represent"
    ]


def test_what_is_said_twice_in_a_schema_is_said_once() -> None:
    schema = {"required": ["a", "a"], "properties": {"a": {"type": ["string", "string"]}}}

    assert said(schema, {}) == ["a: is missing; the model requires it"]
    assert len(said(schema, {"a": 1})) == 1


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}},
        "$defs": {"loop": {"$ref": "#/$defs/loop"}},
        "anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#"}],
    }

    [problem] = check_inputs(entry(tree), {"left": {"n": "x"}})

    assert problem.where == "left.n"


@given(schema=SCHEMAS, inputs=st.dictionaries(st.sampled_from("abcd"), JSON, max_size=3))
def test_no_schema_and_no_input_is_too_odd(schema: Any, inputs: Any) -> None:
    model = entry(schema)

    assert all(problem.message for problem in check_inputs(model, inputs))
    assert all(isinstance(field.path, str) for field in input_fields(model))
    assert example_step(model).startswith("steps:\n")
    assert fit_inputs(model, inputs).keys() == inputs.keys()


TYPED = entry(
    {
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
    }
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
    assert fit_inputs(TYPED, {name: typed}) == {name: fitted}
    assert fit_inputs(UncheckedModel(model_id="acme/none"), {name: typed}) == {name: typed}


def test_without_a_schema_only_what_says_that_it_is_media_is_media() -> None:
    inputs = {
        "prompt": "write to me@example.org about s3://",
        "image": "@photo.jpg",
        "shots": [{"clip": "s3://b/a.mp4"}, "@s3://b/c.mp4", "plain.jpg"],
        "url": "https://h.net/a.jpg",
        "handle": "@",
    }

    assert list(explicit_media(inputs)) == [
        (("image",), "photo.jpg"),
        (("shots", 0, "clip"), "s3://b/a.mp4"),
        (("shots", 1), "s3://b/c.mp4"),
    ]
