import json
from pathlib import Path
from typing import Any

import pytest

from comfyline.models.describe import InputField, entry_changes, input_fields
from comfyline.models.entry import ModelEntry

SAMPLES = json.loads((Path(__file__).parent / "catalogue-samples.json").read_text())["models"]


def model(required: list[str] | None = None, **fields: Any) -> ModelEntry:
    schema = {"type": "object", "properties": fields, "required": required or []}
    return ModelEntry(model_id="m", input_schema=schema)


def described(**field: Any) -> InputField:
    return input_fields(model(field=field))[0]


def test_a_picture_of_the_catalogue_is_described_with_its_limits_in_runcomfys_words() -> None:
    entry = ModelEntry.model_validate(SAMPLES[1])
    image = next(field for field in input_fields(entry) if field.path == "image")

    assert (image.type, image.required) == ("list of pictures", True)
    assert image.rules == (
        "1 to 10 in the list",
        "File size must be less than 30 MB.",
        "The aspect ratio range should be 1:16 to 16:1.",
        "The uploaded image width and height must exceed 14 pixels.",
    )


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"type": "float"}, "number"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"type": "array", "items": {"type": "integer"}}, "list of integer"),
        (
            {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["auto"]}]},
            "integer or string",
        ),
        ({"type": "string", "format": "image_uri"}, "picture"),
        ({"format": "video_uris"}, "list of videos"),
        ({"type": "array", "items": {"type": "string", "format": "audio_uri"}}, "list of sounds"),
        ({"$ref": "#/$defs/none"}, "any"),
        ({}, "any"),
    ],
)
def test_types_are_said_in_words(field: dict[str, Any], said: str) -> None:
    assert described(**field).type == said


@pytest.mark.parametrize(
    ("field", "rules"),
    [
        ({"type": "integer", "minimum": 2, "maximum": 30}, ("2 to 30",)),
        (
            {"type": "number", "exclusiveMinimum": 0, "multipleOf": 8},
            ("more than 0", "a multiple of 8"),
        ),
        ({"type": "string", "minLength": 1, "pattern": "^a"}, ("at least 1 characters", "fits ^a")),
        ({"enum": ["1K", 2, None]}, ("1K, 2, null",)),
        (
            {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            ("at most 2 in the list", "each: a, b"),
        ),
        (
            {
                "format": "image_uri",
                "validations": [{"validation_rule": "file_size_mb<", "validation_value": 30}],
            },
            ("file_size_mb< 30",),
        ),
    ],
)
def test_rules_are_said_in_words(field: dict[str, Any], rules: tuple[str, ...]) -> None:
    assert described(**field).rules == rules


def test_a_default_that_is_never_filled_in_is_an_example() -> None:
    entry = model(
        ["prompt"],
        prompt={"type": "string", "default": "a cat"},
        image={"type": "string", "format": "image_uri", "default": "https://h.net/a.png"},
        seed={"type": "integer", "default": 0},
        note={"type": "string", "default": ""},
    )

    assert [(one.path, one.default, one.is_example) for one in input_fields(entry)] == [
        ("prompt", "a cat", True),
        ("image", "https://h.net/a.png", True),
        ("seed", "0", False),
        ("note", "", False),
    ]


def test_fields_within_objects_and_lists_are_listed_by_their_path() -> None:
    shot = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "format": "image_uri", "description": "the first frame"},
        },
    }
    entry = model(
        shots={"type": "array", "items": shot}, camera={"$ref": "#/properties/shots/items"}
    )

    fields = {field.path: field for field in input_fields(entry)}

    assert list(fields) == ["shots", "shots[].image", "camera", "camera.image"]
    assert fields["camera.image"].type == "picture"
    assert fields["camera.image"].required
    assert fields["shots[].image"].about == "the first frame"


def test_every_difference_is_said_at_its_place() -> None:
    before = {"price": 1, "is": True, "schema": {"old": {}, "size": {"enum": ["1K"]}}, "same": [1]}
    after = {
        "is": 1,
        "schema": {"size": {"enum": ["1K", "2K"]}, "seed": {"type": "integer"}},
        "same": [1],
    }

    assert entry_changes(before, after) == [
        "price is gone",
        "is: true → 1",
        "schema.old is gone",
        'schema.size.enum: ["1K"] → ["1K", "2K"]',
        'schema.seed is new: {"type": "integer"}',
    ]
    [said] = entry_changes({}, {"about": "long " * 100})
    assert len(said) < 110
