"""What `models show` and `models pull` say: inputs, an example that works, what is different."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from comfyline.models.check import find_mistakes
from comfyline.models.describe import entry_changes, example_inputs, example_step, input_fields
from comfyline.models.entry import ModelEntry, list_models
from comfyline.pipeline.document import load_pipeline
from tests.conftest import ROOT

SAMPLES = json.loads((Path(__file__).parent / "catalogue-samples.json").read_text())["models"]
HERE = [ROOT / "configs/models", ROOT / "tests/shapes/models"]
ENTRIES = [ModelEntry.model_validate(one) for one in SAMPLES]
ENTRIES += [one for one in list_models(HERE) if one.model_id not in {e.model_id for e in ENTRIES}]


def model(required: list[str] | None = None, **fields: Any) -> ModelEntry:
    schema = {"type": "object", "properties": fields, "required": required or []}
    return ModelEntry(model_id="acme/model", input_schema=schema)


def test_a_picture_of_the_catalogue_is_described_with_its_limits_in_runcomfys_words() -> None:
    image = next(field for field in input_fields(ENTRIES[1]) if field.path == "image")

    assert (image.type, image.required) == ("list of pictures", True)
    assert image.rules == (
        "1 to 10 in the list",
        "File size must be less than 30 MB.",
        "The aspect ratio range should be 1:16 to 16:1.",
        "The uploaded image width and height must exceed 14 pixels.",
    )


@pytest.mark.parametrize(
    ("field", "kind", "rules"),
    [
        ({"type": "float"}, "number", []),
        ({"type": ["string", "null"]}, "string or null", []),
        ({"type": "array", "items": {"type": "integer"}}, "list of integer", []),
        (
            {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["auto"]}]},
            "integer or string",
            [],
        ),
        ({"type": "string", "format": "image_uri"}, "picture", []),
        ({"format": "video_uris"}, "list of videos", []),
        ({"type": "array", "items": {"format": "audio_uri"}}, "list of sounds", []),
        ({"$ref": "#/$defs/none"}, "any", []),
        ({"type": "integer", "minimum": 2, "maximum": 30}, "integer", ["2 to 30"]),
        (
            {"type": "number", "exclusiveMinimum": 0, "multipleOf": 8},
            "number",
            ["more than 0", "a multiple of 8"],
        ),
        (
            {"type": "string", "minLength": 1, "pattern": "^a"},
            "string",
            ["at least 1 characters", "fits ^a"],
        ),
        ({"enum": ["1K", 2, None]}, "any", ["1K, 2, null"]),
        (
            {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            "list of any",
            ["at most 2 in the list", "each: a, b"],
        ),
        (
            {
                "format": "image_uri",
                "validations": [{"validation_rule": "file_size_mb<", "validation_value": 30}],
            },
            "picture",
            ["file_size_mb< 30"],
        ),
    ],
)
def test_types_and_rules_are_said_in_words(
    field: dict[str, Any], kind: str, rules: list[str]
) -> None:
    [described] = input_fields(model(field=field))

    assert (described.type, list(described.rules)) == (kind, rules)


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
    schema = {"size": {"enum": ["1K", "2K"]}, "seed": {"type": "integer"}}
    after = {"is": 1, "schema": schema, "same": [1]}

    assert entry_changes(before, after) == [
        "price is gone",
        "is: true → 1",
        "schema.old is gone",
        'schema.size.enum: ["1K"] → ["1K", "2K"]',
        'schema.seed is new: {"type": "integer"}',
    ]
    [said] = entry_changes({}, {"about": "long " * 100})
    assert len(said) < 110


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.model_id)
def test_each_example_is_a_step_that_the_model_takes(entry: ModelEntry, tmp_path: Path) -> None:
    step = example_step(entry)
    every = step.replace("      # ", "      ").replace("input: {}", "input:")
    for text in (step, every):
        path = tmp_path / "p.yaml"
        path.write_text("name: p\nsource: {items: [{}]}\noutput: {to: out}\n" + text)
        [made] = load_pipeline(path).document.steps.values()

        assert made.model == entry.model_id
        assert find_mistakes(entry, made.input) == []


def test_the_example_is_yaml_that_people_write() -> None:
    entry = model(
        ["prompt", "images"],
        prompt={"type": "string", "default": "two\nlines: \"and\" {# no #} more"},
        images={"type": "array", "format": "image_uris", "minItems": 2},
        size={"enum": ["1K", "2K"], "default": "2K"},
        sync={"type": "boolean", "default": False},
    )  # fmt: skip

    assert example_step(entry) == textwrap.dedent(
        """\
        steps:
          model:
            model: acme/model
            input:
              prompt: "A red door in soft morning light."
              images: ["photo.jpg", "photo-2.jpg"]
              # size: "2K"
              # sync: false
        """
    )


def test_the_step_has_a_name_that_templates_can_use() -> None:
    for model_id, name in (("a/image-to-video/1080p", "image_to_video"), ("1/2", "make")):
        entry = ModelEntry(model_id=model_id, input_schema={"type": "object"})
        step = f"steps:\n  {name}:\n    model: {model_id}\n    input: {{}}\n"
        assert example_step(entry) == step


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "minLength": 100, "maxLength": 120},
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": 4, "maximum": 30},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
        {"type": "integer", "minimum": 5, "multipleOf": 8},
        {"type": "integer", "maximum": -3},
        {"type": "string", "enum": ["a", "b"], "default": "z"},
        {"const": 7},
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
        {"anyOf": [{"type": "object", "required": ["w"], "properties": {"w": {"type": "null"}}}]},
        {"oneOf": [{"type": "integer", "minimum": 4}, {"type": "string", "enum": ["auto"]}]},
        {"$ref": "#/properties/other"},
    ],
)
def test_a_value_that_fits_is_found(field: dict[str, Any]) -> None:
    entry = model(["field"], field=field, other={"type": "integer", "minimum": 9})

    assert find_mistakes(entry, example_inputs(entry)) == []


def test_one_of_several_fields_that_are_required_by_turns_is_filled_in() -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "image": {"format": "image_uri"}},
        "anyOf": [{"required": ["image"]}, {"required": ["text"]}],
    }

    made = example_inputs(ModelEntry(model_id="m", input_schema=schema))

    assert made == {"image": "photo.jpg"}
