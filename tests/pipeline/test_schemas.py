"""The schemas for editors: current, right about the examples, and not about what is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft7Validator

from comfyline.cli.main import run
from comfyline.config.profile import model_directories
from comfyline.models.entry import ModelEntry, list_models
from comfyline.plan.editor_schema import (
    PIPELINE_SCHEMA,
    PROFILE_SCHEMA,
    pipeline_schema,
    schema_files,
)
from comfyline.yaml.file import load_yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "configs/pipelines").glob("*.yaml"))
PROFILES = sorted((ROOT / "configs/profiles").glob("*.yaml"))
OFFICE = ROOT / "configs/pipelines/office-scenes.yaml"
FIRST_LINE = "# yaml-language-server: $schema=../schemas/"


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """The schemas as they are made now."""
    files = schema_files(list_models(model_directories()))
    return {name: json.loads(text) for name, text in files.items()}


def refused(schema: Any, document: Any) -> list[str]:
    found = Draft7Validator(schema).iter_errors(document)
    return [".".join(map(str, error.instance_path)) for error in found]


def test_the_schemas_that_lie_there_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    assert run(["schemas", "--check"]) == 0, "`comfyline schemas` writes them anew"


def test_the_command_writes_what_is_old_and_says_when_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(["schemas", "--check"]) == 65
    assert not (tmp_path / "configs").exists()
    assert run(["schemas"]) == 0
    assert run(["schemas", "--check"]) == 0
    (tmp_path / "configs/schemas" / PROFILE_SCHEMA).write_text("{}")
    capsys.readouterr()
    assert run(["schemas", "--check"]) == 65
    assert PIPELINE_SCHEMA not in capsys.readouterr().err
    assert run(["schemas"]) == 0
    assert capsys.readouterr().err == f"configs/schemas/{PROFILE_SCHEMA} is written.\n"


@pytest.mark.parametrize("path", [*EXAMPLES, *PROFILES], ids=lambda path: path.stem)
def test_an_example_is_right_and_names_its_schema(
    path: Path, schemas: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    schema = PROFILE_SCHEMA if path in PROFILES else PIPELINE_SCHEMA

    assert refused(schemas[schema], load_yaml(path).data) == []
    assert path.read_text().startswith(f"{FIRST_LINE}{schema}\n")


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    parent: Any = document
    *above, last = path.split(".")
    for key in above:
        parent = parent.setdefault(key, {})
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("nmae", "x", ""),
        ("name", ..., ""),
        ("name", "a b", "name"),
        ("source", {}, "source"),
        ("source", {"files": "*.jpg", "table": "a.csv"}, "source"),
        ("matrix.aspect_ratio", "1:1", "matrix.aspect_ratio"),
        ("steps", {}, "steps"),
        ("steps.edit.model", ..., "steps.edit"),
        ("steps.edit.input.aspect_ratio", "16x9", "steps.edit.input.aspect_ratio"),
        ("steps.edit.input.num_images", "2", "steps.edit.input.num_images"),
        ("steps.edit.input.num_images", 9, "steps.edit.input.num_images"),
        ("steps.edit.input.prompt", ..., "steps.edit.input"),
        ("steps.edit.input.promt", "x", "steps.edit.input"),
        ("steps.edit.input.image_urls", [], "steps.edit.input.image_urls"),
        ("limits.timeout", "soon", "limits.timeout"),
        ("limits.in_flight", "{{ x }}", "limits.in_flight"),
        # What is right is not underlined.
        ("steps.edit.input.num_images", "{{ item.count }}", None),
        ("steps.edit.input.image_urls", "{{ steps.cut.images }}", None),
        ("steps.edit.input.image_urls", ["{% if x %}a.jpg{% endif %}"], None),
        ("steps.edit.model", "{{ matrix.model }}", None),
        ("steps.edit.variant", {"any": ["thing"]}, None),
        ("limits.timeout", 90, None),
    ],
)
def test_what_is_wrong_is_underlined_at_its_place(
    path: str, value: Any, where: str | None, schemas: dict[str, Any]
) -> None:
    document = changed(load_yaml(OFFICE).data, path, value)

    assert refused(schemas[PIPELINE_SCHEMA], document) == ([] if where is None else [where])


def test_a_file_that_extends_another_may_leave_out_and_take_away(
    schemas: dict[str, Any],
) -> None:
    document = {
        "extends": "configs/pipelines/office-scenes.yaml",
        "matrix": {"aspect_ratio": ["1:1"]},
        "steps": {"edit": {"input": {"aspect_ratio": None}, "variant": 2}, "cut": None},
        "limits": {"timeout": None},
        "source": {"files": None, "items": [{"sku": 1}]},
    }

    assert refused(schemas[PIPELINE_SCHEMA], document) == []
    assert refused(schemas[PIPELINE_SCHEMA], document | {"nmae": "x"}) == [""]
    wrong = changed(document, "limits.in_flight", "many")
    assert refused(schemas[PIPELINE_SCHEMA], wrong) == ["limits.in_flight"]
    profile: dict[str, Any] = {"extends": "base.yaml", "runcomfy": {"token_env": None}}
    assert refused(schemas[PROFILE_SCHEMA], profile) == []
    for path, value in (("runcomfy.token_env", "rc-the-token"), ("storage.uploads", "my-bucket")):
        assert refused(schemas[PROFILE_SCHEMA], changed(profile, path, value)) == [path]


def test_a_field_of_a_model_brings_its_words_and_choices() -> None:
    entry = ModelEntry.model_validate(
        {
            "model_id": "acme/x",
            "input_schema": {
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "title": "Prompt", "default": "an example"},
                    "size": {"type": "string", "enum": ["1K", "2K"], "default": "1K"},
                },
            },
        }
    )

    [rule] = pipeline_schema([entry])["$defs"]["Step"]["allOf"]
    fields = rule["then"]["properties"]["input"]["properties"]

    assert rule["if"]["properties"]["model"] == {"const": "acme/x"}
    assert fields["prompt"] == {
        "description": "Prompt",
        "examples": ["an example"],
        "type": "string",
    }
    assert fields["size"]["default"] == "1K"
    assert fields["size"]["anyOf"][0]["enum"] == ["1K", "2K"]
