"""JSON Schemas for editors: what a pipeline and a profile may hold, completed while it is typed.

Made from the classes that read them and from the models' own schemas, in draft 7, which editors
understand best. They know less than `comfyline check`, and never refuse what it accepts.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from comfyline.config.profile import ProfileDocument
from comfyline.models.entry import ModelEntry
from comfyline.pipeline.document import PipelineDocument
from comfyline.yaml.file import EXTENDS

Schema = dict[str, Any]

PIPELINE_SCHEMA = "pipeline.schema.json"
PROFILE_SCHEMA = "profile.schema.json"

_TEMPLATE: Schema = {
    "description": "A template that gives the value: {{ matrix.seed }}.",
    "type": "string",
    "pattern": r"\{\{|\{%",
}
_EXTENDS: Schema = {
    "description": "Another file that this one extends, relative to the working directory: "
    "mappings are merged, this file wins, lists are replaced, null takes a key away.",
    "type": "string",
    "minLength": 1,
    "examples": ["configs/pipelines/base.yaml"],
}
_FROM_FILE = " A text may come from a file: !file prompts/office.md."


def schema_files(entries: Iterable[ModelEntry]) -> dict[str, str]:
    """Write the schemas, by file name; `entries` are the models that are known."""
    return {
        PIPELINE_SCHEMA: _written(pipeline_schema(entries)),
        PROFILE_SCHEMA: _written(profile_schema()),
    }


def pipeline_schema(entries: Iterable[ModelEntry]) -> Schema:
    """Make the schema of a pipeline, with the input fields of the models that are known."""
    schema, definitions = _parts(PipelineDocument)
    definitions["Template"] = _TEMPLATE
    source, step = definitions["Source"], definitions["Step"]
    source["oneOf"] = [{"required": [name]} for name in ("files", "table", "items")]
    model, inputs = step["properties"]["model"], step["properties"]["input"]
    inputs["description"] += _FROM_FILE
    known = sorted(entries, key=lambda entry: entry.model_id)
    model["examples"] = [entry.model_id for entry in known] or model["examples"]
    step["allOf"] = [
        {
            "if": {
                "properties": {"model": {"const": entry.model_id}},
                "required": ["model"],
            },
            "then": {"properties": {"input": _input_schema(entry)}},
        }
        for entry in known
    ]
    return _extendable("A pipeline: what to make.", "Pipeline", schema, definitions)


def profile_schema() -> Schema:
    """Make the schema of a profile."""
    return _extendable("A profile: where it runs.", "Profile", *_parts(ProfileDocument))


def _written(schema: Schema) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _parts(document: type[BaseModel]) -> tuple[Schema, dict[str, Schema]]:
    """Split the schema of a document from its definitions, without made-up titles."""
    schema = document.model_json_schema()
    _each_schema(schema, lambda one: one.pop("title", None))
    definitions: dict[str, Schema] = schema.pop("$defs", {})
    return schema, definitions


def _extendable(
    description: str, name: str, whole: Schema, definitions: dict[str, Schema]
) -> Schema:
    """Allow a file that is whole, or one that extends another and may leave things out."""
    whole["properties"] = {EXTENDS: _EXTENDS} | whole["properties"]
    part = deepcopy({"": whole} | definitions)
    for key, schema in part.items():
        _each_schema(schema, _loosened)
        if key:
            part[key] = _or_null(schema)
    both = {name: whole} | definitions
    both |= {f"{key or name}InPart": schema for key, schema in part.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"comfyline {name.lower()}",
        "description": description,
        "type": "object",
        "if": {"required": [EXTENDS]},
        "then": {"$ref": f"#/$defs/{name}InPart"},
        "else": {"$ref": f"#/$defs/{name}"},
        "$defs": dict(sorted(both.items())),
    }


def _loosened(schema: Schema) -> None:
    """Require nothing, and let everything be taken away by null."""
    if "if" in schema:
        return
    if "properties" in schema:
        schema.pop("required", None)
        schema.pop("oneOf", None)
        schema["properties"] = {
            key: value if key == EXTENDS else _or_null(value)
            for key, value in schema["properties"].items()
        }
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _or_null(schema["additionalProperties"])
    if str(schema.get("$ref", "")).startswith("#/$defs/") and not schema["$ref"].endswith("InPart"):
        schema["$ref"] += "InPart"


def _or_null(schema: Schema) -> Schema:
    if isinstance(kind := schema.get("type"), str) and "const" not in schema:
        choices = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        return schema | {"type": [kind, "null"]} | choices
    words = {key: schema[key] for key in ("description", "examples", "default") if key in schema}
    rule = {key: value for key, value in schema.items() if key not in words}
    # What is named by a reference may be null itself.
    if not rule or "$ref" in rule or {"type": "null"} in rule.get("anyOf", ()):
        return schema
    return words | {"anyOf": [rule, {"type": "null"}]}


def _input_schema(entry: ModelEntry) -> Schema:
    """Make the schema of a model's input in YAML: each value itself, or a template for it."""
    rules = entry.plain_schema
    described = entry.input_schema.get("properties")
    required = rules.get("required", [])
    properties: dict[str, Schema] = {}
    for name, rule in rules.get("properties", {}).items():
        field = described.get(name) if isinstance(described, Mapping) else None
        words = _words(field if isinstance(field, Mapping) else {}, is_required=name in required)
        properties[name] = words | _or_template(rule)
    schema: Schema = {"type": "object", "properties": properties}
    return schema | {
        key: rules[key] for key in ("required", "additionalProperties") if key in rules
    }


def _words(field: Mapping[str, Any], *, is_required: bool) -> Schema:
    """Keep what a field says to people. A required one's default is only an example."""
    text = " ".join(
        part.strip()
        for part in (field.get("title"), field.get("description"))
        if isinstance(part, str) and part.strip()
    )
    words: Schema = {"description": text} if text else {}
    if "default" in field and is_required:
        words["examples"] = [field["default"]]
    elif "default" in field:
        words["default"] = field["default"]
    return words


_PLAIN_TEXT = {"type", "minLength"}


def _or_template(rule: Mapping[str, Any]) -> Schema:
    """Let a template pass as well, for a rule and each value inside of it."""
    inside: Schema = {}
    for key, value in rule.items():
        if key == "properties":
            inside[key] = {name: _or_template(one) for name, one in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            inside[key] = _or_template(value)
        elif key == "type" and isinstance(value, list) and len(value) == 1:
            inside[key] = value[0]
        else:
            inside[key] = deepcopy(value)
    is_text = inside.get("type") == "string" and set(inside) <= _PLAIN_TEXT
    if is_text or not inside:
        return inside
    return {"anyOf": [inside, {"$ref": "#/$defs/Template"}]}


_INNER = ("properties", "$defs")
_INNER_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_INNER_ONES = ("items", "additionalProperties", "then", "else")


def _each_schema(schema: Schema, change: Callable[[Schema], Any]) -> None:
    """Change a schema and each one in it, the inner ones first."""
    for inner in list(_inner(schema)):
        _each_schema(inner, change)
    change(schema)


def _inner(schema: Schema) -> Iterator[Schema]:
    for key in _INNER:
        yield from schema.get(key, {}).values()
    for key in _INNER_LISTS:
        yield from schema.get(key, ())
    for key in _INNER_ONES:
        if isinstance(schema.get(key), dict):
            yield schema[key]
