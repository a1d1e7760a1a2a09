import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.models.check import check_inputs, field_path, find_mistakes
from comfyline.models.entry import ModelEntry

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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = ["type", "properties", "items", "enum", "required", "minimum", "multipleOf", "pattern"]
WORDS += ["anyOf", "oneOf", "allOf", "$ref", "additionalProperties", "format", "prefixItems", "a"]
TERMS = [
    "string",
    "object",
    "array",
    "float",
    "integer",
    "image_uri",
    "image_uris",
    "#",
    "#/a",
    "a",
]
ODD_SCHEMAS = st.recursive(
    st.sampled_from([*TERMS, True, None, 0, -1, 0.1, ["a"], "(", 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=12,
)


def entry(schema: Any) -> ModelEntry:
    return ModelEntry(model_id="some/model", input_schema=schema)


def said(**inputs: Any) -> list[str]:
    return [str(problem) for problem in check_inputs(entry(SCHEMA), {**RIGHT, **inputs})]


def test_what_fits_has_no_mistakes() -> None:
    assert (
        said(aspect_ratio="1:1", num_images=4, strength=0.5, mask=None, options={"seed": 1}) == []
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (
            {"aspect_ratio": "16x9"},
            "aspect_ratio: '16x9' is not one of auto, 21:9, 16:9, 1:1; did you mean `16:9`?",
        ),
        ({"promt": "x"}, "promt: the model has no such field; did you mean `prompt`?"),
        ({"num_images": 9}, "num_images: 9 is too large; the most is 4"),
        ({"num_images": 0}, "num_images: 0 is too small; the least is 1"),
        ({"num_images": "2"}, "num_images: should be a whole number, not the text '2'"),
        ({"num_images": True}, "num_images: should be a whole number, not true"),
        (
            {"num_images": None},
            "num_images: should be a whole number, not null; leave the field out",
        ),
        ({"strength": 0}, "strength: 0 is too small; it has to be more than 0"),
        ({"image_urls": []}, "image_urls: holds 0, which is too few; the least is 1"),
        ({"image_urls": ["a"] * 3}, "image_urls: holds 3, which is too many; the most is 2"),
        ({"image_urls": "a.jpg"}, "image_urls: should be a list, not the text 'a.jpg'"),
        ({"image_urls": [""]}, "image_urls[0]: is empty"),
        ({"aspect_ratio": 3}, "aspect_ratio: should be text, not the number 3"),
        ({"mask": 3}, "mask: should be text, not the number 3"),
        ({"options": {"sed": 1}}, "options.sed: the model has no such field; did you mean `seed`?"),
    ],
)
def test_a_mistake_is_a_sentence(inputs: dict[str, Any], expected: str) -> None:
    assert said(**inputs) == [expected]


def test_all_mistakes_are_told_and_no_example_is_filled_in() -> None:
    found = [p.where for p in check_inputs(entry(SCHEMA), {"num_images": 9, "x": 1})]

    assert found == ["image_urls", "num_images", "prompt", "x"]


def test_a_mistake_points_into_the_inputs() -> None:
    [mistake] = find_mistakes(entry(SCHEMA), {**RIGHT, "image_urls": ["a", 3]})

    assert mistake.pointer == ("image_urls", 1)
    assert field_path(("a", 0, "b")) == "a[0].b"
    assert field_path(()) == "input"


def test_a_model_may_accept_other_fields_on_purpose() -> None:
    assert check_inputs(entry({**SCHEMA, "additionalProperties": True}), {**RIGHT, "x": 1}) == []
    assert check_inputs(entry({}), {"anything": 1}) == []


def test_what_is_said_of_a_media_url_does_not_apply_to_a_path() -> None:
    field = {"type": "string", "format": "image_uri", "pattern": "^https://", "maxLength": 3}

    assert check_inputs(entry({"properties": {"image": field}}), {"image": "photo.jpg"}) == []


def test_a_fraction_is_no_reason_to_refuse() -> None:
    field = {"type": "float", "multipleOf": 0.1}

    assert check_inputs(entry({"properties": {"x": field}}), {"x": 0.3}) == []


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}},
        "$defs": {"loop": {"$ref": "#/$defs/loop"}},
        "anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#"}],
    }

    [problem] = check_inputs(entry(tree), {"left": {"n": "x"}})

    assert problem.where == "left.n"


@settings(max_examples=300, deadline=None)
@given(
    schema=ODD_SCHEMAS.filter(lambda schema: isinstance(schema, dict)),
    inputs=st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=3),
)
def test_no_schema_and_no_input_crash_the_check(schema: Any, inputs: Any) -> None:
    for problem in check_inputs(entry(schema), inputs):
        assert problem.message


@settings(max_examples=200, deadline=None)
@given(inputs=st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), JSON))  # type: ignore[type-var]
def test_any_input_of_a_real_schema_is_checked(inputs: Any) -> None:
    assert json.dumps([str(problem) for problem in check_inputs(entry(SCHEMA), inputs)])


def test_the_schema_that_comes_along_accepts_its_own_example() -> None:
    root = Path(__file__).parents[2]
    for path in sorted((root / "configs" / "models").rglob("*.json")):
        model = ModelEntry.model_validate_json(path.read_bytes())
        fields = model.input_schema["properties"].items()
        assert check_inputs(model, {k: f["default"] for k, f in fields if "default" in f}) == []
