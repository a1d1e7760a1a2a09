"""RunComfy's own dialect of JSON Schema; nothing else in the project knows of it.

A field is media by its `format` (`image_uri`, `video_uris`, …): the plural stands on an array
whose items say nothing, the singular may stand on `items`. `float` means `number`. Schemas come
from several hundred models and are not all well formed, so a rule that makes no sense is passed
over here rather than refused: RunComfy judges by it, not this project.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jsonschema_rs

from comfyline.job import PENDING, MediaKind, Pointer
from comfyline.yaml.file import texts_in

_MEDIA = re.compile(r"(image|video|audio)_uris?")
_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_COMBINING = ("allOf", "anyOf", "oneOf")
# A schema may refer to itself, and so be endless: a level counts one, a `$ref` many.
_DEEPEST = 24
_REFERENCE = 8
_RULES = ["enum", "const", "required", "pattern", "uniqueItems", "multipleOf"]
_RULES += ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
_RULES += ["minLength", "maxLength", "minItems", "maxItems"]
"""The rules that are kept where the engine takes them."""
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=256 * 1024)
"""Without look-around and back-references; linear means linear for small automata only."""


def compile_schema(plain: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Compile a plain JSON Schema. Raises `ValueError` for one that is none."""
    return jsonschema_rs.Draft202012Validator(dict(plain), pattern_options=_PATTERNS)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way in which the schema takes a medium: its kind, and the `validations` that it holds.

    `said` is what the field says of itself to people, which may name file formats. With
    `is_unknown` the model has no schema, so that nothing is known of what it takes.
    """

    kind: MediaKind
    validations: Sequence[Any] = ()
    said: str = ""
    is_unknown: bool = False


@dataclass(frozen=True, slots=True)
class MediaField:
    """One media value in a model's inputs, as it was given.

    `readings` are alternatives: a field may take a picture or a video.
    """

    pointer: Pointer
    value: str
    readings: tuple[Reading, ...]


def to_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Translate into plain JSON Schema (draft 2020-12) without `$ref`, formats or defaults.

    An object that lists its properties accepts no others, unless the model says that it does: a
    field that is not known would be dropped silently, and the job paid for all the same.
    """
    return _translated(schema, schema, 0)


def media_fields(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[MediaField]:
    """Find every media value in the inputs, at any depth, in the order of the inputs."""
    values: dict[Pointer, str] = {}
    readings: dict[Pointer, list[Reading]] = {}
    for pointer, value, reading in _media_in(_At(schema, 0), inputs, (), schema):
        values[pointer] = value
        readings.setdefault(pointer, []).append(reading)
    return [MediaField(at, value, tuple(readings[at])) for at, value in values.items()]


def plain_fields(schema: Mapping[str, Any]) -> frozenset[str]:
    """List the fields of the input that never hold media: none has to look there."""
    if "$ref" in schema or any(key in schema for key in _COMBINING):
        return frozenset()  # They may be described once more elsewhere.
    return frozenset(
        name
        for name, field in as_mapping(schema.get("properties")).items()
        if not any("$ref" in one or media_kind(one) for one in _mappings_in(field))
    )


def _mappings_in(schema: Any) -> Iterator[Mapping[str, Any]]:
    left = [schema]
    while left:
        match left.pop():
            case Mapping() as fields:
                yield fields
                left.extend(fields.values())
            case list() as entries:
                left.extend(entries)


def media_kind(schema: Mapping[str, Any]) -> MediaKind | None:
    """Return the kind of media that a field asks for; None if it is no media field."""
    match = _MEDIA.fullmatch(str(schema.get("format")))
    return cast("MediaKind", match[1]) if match else None


@dataclass(frozen=True, slots=True)
class _At:
    """A place in the schema, how deep it lies, and what was said on the way to it."""

    schema: Any
    depth: int
    validations: tuple[Any, ...] = ()
    said: str = ""


def _media_in(
    at: _At, value: Any, pointer: Pointer, root: Mapping[str, Any]
) -> Iterator[tuple[Pointer, str, Reading]]:
    if not isinstance(value, str | list | Mapping):
        return
    schema, depth = resolve(at.schema, root, at.depth)
    if depth > _DEEPEST:
        return
    # They may stand on the array or on the field, while the format stands on items or a branch.
    validations = (*at.validations, *as_list(schema.get("validations")))
    said = " ".join([at.said, *_said(schema)])

    def inner(part: Any, *, same_field: bool = True) -> _At:
        held = (validations, said) if same_field else ()
        return _At(part, depth + 1, *held)

    if kind := media_kind(schema):
        for where, text in _listed_texts(value, pointer, depth):
            yield where, text, Reading(kind, validations, said)
    branches = [branch for key in _COMBINING for branch in as_list(schema.get(key))]
    for branch in [] if _is_listed(value, branches) else branches:
        yield from _media_in(inner(branch), value, pointer, root)
    if isinstance(value, Mapping):
        properties = as_mapping(schema.get("properties"))
        for name, entry in value.items():
            known = properties.get(name, schema.get("additionalProperties"))
            yield from _media_in(inner(known, same_field=False), entry, (*pointer, name), root)
    elif isinstance(value, list):
        first = as_list(schema.get("prefixItems"))
        for index, entry in enumerate(value):
            known = first[index] if index < len(first) else schema.get("items")
            yield from _media_in(inner(known), entry, (*pointer, index), root)


def _said(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a field says to people: its title, description, the errors of its rules."""
    errors = (as_mapping(one).get("validation_error") for one in as_list(schema.get("validations")))
    for text in (schema.get("title"), schema.get("description"), *errors):
        if isinstance(text, str):
            yield text


def _is_listed(value: Any, branches: Sequence[Any]) -> bool:
    """Tell whether one of the alternatives names this very text: `none` is no path to a picture."""
    some = map(as_mapping, branches)
    return isinstance(value, str) and any(
        value in [*as_list(one.get("enum")), one.get("const")] for one in some
    )


def _listed_texts(value: Any, pointer: Pointer, depth: int) -> Iterator[tuple[Pointer, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, list) and depth <= _DEEPEST:
        for index, entry in enumerate(value):
            yield from _listed_texts(entry, (*pointer, index), depth + 1)


def _translated(written: Any, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Keep of a schema what is a rule; `{}` accepts everything."""
    schema, depth = resolve(written, root, depth)
    if depth > _DEEPEST:
        return {}
    kept: dict[str, Any] = {}
    if types := _types(schema):
        kept["type"] = types
    rules = {key: schema[key] for key in _RULES if key in schema}
    if required := as_list(rules.get("required")):
        # A field that is required twice is required.
        rules["required"] = [one for at, one in enumerate(required) if one not in required[:at]]
    kept |= {key: value for key, value in rules.items() if _is_sound(key, value)}
    for key in (*_COMBINING, "prefixItems"):
        if branches := as_list(schema.get(key)):
            kept[key] = [_translated(branch, root, depth + 1) for branch in branches]
    if isinstance(schema.get("items"), Mapping):
        kept["items"] = _translated(schema["items"], root, depth + 1)
    kept |= _object_rules(schema, root, depth)
    return _for_media(schema, kept) if media_kind(schema) else kept


def _is_sound(rule: str, value: Any) -> bool:
    """Tell whether the engine takes this value for a rule, and the rule makes sense."""
    # Of a fraction, floating point would refuse what is right: 0.3 is no multiple of 0.1.
    if (rule == "multipleOf" and not isinstance(value, int)) or value == []:
        return False
    try:
        compile_schema({rule: value})
    except ValueError:
        return False
    return True


def _object_rules(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = as_mapping(schema.get("properties"))
    others = schema.get("additionalProperties")
    rules: dict[str, Any] = {}
    if properties:
        rules["properties"] = {
            str(name): _translated(field, root, depth + 1) for name, field in properties.items()
        }
    if isinstance(others, Mapping):
        rules["additionalProperties"] = _translated(others, root, depth + 1)
    elif others is False or (others is not True and properties and not _is_open(schema)):
        rules["additionalProperties"] = False
    return rules


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Tell whether more properties may be listed elsewhere than in `properties`."""
    return any(key in schema for key in (*_COMBINING, "patternProperties", "if", "$ref"))


def _for_media(schema: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Keep the rules of a media field: how many, but not what the text looks like.

    Before the upload it is a path, so what is said of the URL does not apply yet.
    """
    for key in ("pattern", "minLength", "maxLength", "enum", "const"):
        kept.pop(key, None)
    one = {"type": ["string"], "minLength": 1}
    if kept.get("type") == ["string"]:
        return kept | one
    is_plural = str(schema["format"]).endswith("s")
    if kept.get("type") == ["array"] or (is_plural and "type" not in kept):
        return {"items": one} | kept | {"type": ["array"]}
    return kept


def resolve(schema: Any, root: Mapping[str, Any], depth: int = 0) -> tuple[Mapping[str, Any], int]:
    """Follow references within the schema; one that leads nowhere accepts everything."""
    found = as_mapping(schema)
    while isinstance(reference := found.get("$ref"), str) and depth <= _DEEPEST:
        target: Any = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            target = (target.get(key) if isinstance(target, Mapping) else None) if part else target
        beside = {key: value for key, value in found.items() if key != "$ref"}
        found = {**as_mapping(target), **beside}
        depth += _REFERENCE
    return found, depth


def _types(schema: Mapping[str, Any]) -> list[str]:
    written = schema.get("type")
    listed = written if isinstance(written, list) else [written]
    named = ["number" if name == "float" else name for name in listed]
    known = list(dict.fromkeys(n for n in named if isinstance(n, str) and n in _TYPES))
    # One unknown type may mean anything, so nothing is known.
    if not known or not _TYPES.issuperset(map(str, named)):
        return []
    return known + (["null"] if schema.get("nullable") is True and "null" not in known else [])


def as_list(value: Any) -> list[Any]:
    """Take what should be a list and may be anything."""
    return value if isinstance(value, list) else []


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Take what should be a mapping and may be anything."""
    return value if isinstance(value, Mapping) else {}


def explicit_media(inputs: Any) -> Iterator[tuple[Pointer, str]]:
    """Yield every value that says of itself that it is media, with where its bytes are."""
    for pointer, text in texts_in(inputs):
        if len(text) > 1 and text.startswith(("@", "s3://")):
            yield pointer, text.removeprefix("@")


def unmarked_media(inputs: Any) -> Iterator[Pointer]:
    """Yield where another step's output is taken without a mark that makes it a medium."""
    return (pointer for pointer, text in texts_in(inputs) if text.startswith(PENDING))
