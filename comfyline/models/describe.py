"""A model's inputs in words: one line a field, for whoever writes a pipeline by hand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfyline.job import MediaKind
from comfyline.models.dialect import media_fields
from comfyline.models.entry import ModelEntry

_DEEPEST = 3
"""Objects in objects that are still shown; a schema that refers to itself has no end."""


_KINDS: Mapping[MediaKind, str] = {"image": "picture", "video": "video", "audio": "sound"}


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a model. `path` is written as in errors: `options.seed`, `shots[].prompt`.

    `default` is empty where there is none. With `is_example` it is the model page's example, which
    is never filled in: a required field has to be given, and no example picture is paid for.
    """

    path: str
    type: str
    required: bool
    rules: tuple[str, ...]
    default: str
    is_example: bool
    about: str


def input_fields(entry: ModelEntry) -> list[InputField]:
    """Every input of a model in the order of its schema, those within objects after their object.

    What is not well formed in a schema is left out; nothing is raised.
    """
    root = entry.input_schema
    return list(_fields(root, entry.plain_schema, root, "", 0))


def _fields(
    written: Any, plain: Mapping[str, Any], root: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[InputField]:
    """`written` is the schema in RunComfy's dialect, `plain` the same as JSON Schema."""
    if depth > _DEEPEST:
        return
    properties = _mapping(_followed(written, root).get("properties"))
    required = plain.get("required", [])
    for name, rules in plain.get("properties", {}).items():
        own = _followed(properties.get(name), root)
        kind = _media(own, rules, root)
        is_required = name in required
        path = f"{prefix}{name}"
        yield InputField(
            path=path,
            type=kind or _type(rules),
            required=is_required,
            rules=(*_rules(rules, is_media=kind is not None), *_validations(own)),
            default=_default(own),
            is_example=is_required or kind is not None,
            about=str(own.get("description") or own.get("title") or ""),
        )
        yield from _fields(own, rules, root, f"{path}.", depth + 1)
        if isinstance(entries := rules.get("items"), Mapping):
            yield from _fields(own.get("items"), entries, root, f"{path}[].", depth + 1)


def _media(
    field: Mapping[str, Any], plain: Mapping[str, Any], root: Mapping[str, Any]
) -> str | None:
    """`picture`, `list of videos`: found by trying, so that the dialect is known in one place."""
    schema = {**root, "properties": {"field": field}, "required": []}
    for example, said in (("x", "{}"), (["x"], "list of {}s")):
        # A text is media in a list field too; what tells them apart is which the field takes.
        takes_list = "array" in plain.get("type", ())
        found = media_fields(schema, {"field": example})
        if found and takes_list is isinstance(example, list):
            named = dict.fromkeys(_KINDS[one.kind] for one in found[0].readings)
            return said.format("s or ".join(named) if takes_list else " or ".join(named))
    return None


def _type(plain: Mapping[str, Any]) -> str:
    names = list(plain.get("type", ()))
    if isinstance(entries := plain.get("items"), Mapping) and "array" in names:
        names[names.index("array")] = f"list of {_type(entries)}"
    for key in ("anyOf", "oneOf"):
        names += [name for branch in plain.get(key, ()) for name in _type(branch).split(" or ")]
    return " or ".join(dict.fromkeys(names)) or "any"


def _rules(plain: Mapping[str, Any], *, is_media: bool = False) -> Iterator[str]:
    if "enum" in plain:
        yield ", ".join(_short(choice) for choice in plain["enum"])
    if "const" in plain:
        yield f"only {_short(plain['const'])}"
    yield from _range(plain, "minimum", "maximum", "")
    if "exclusiveMinimum" in plain:
        yield f"more than {plain['exclusiveMinimum']}"
    if "exclusiveMaximum" in plain:
        yield f"less than {plain['exclusiveMaximum']}"
    if "multipleOf" in plain:
        yield f"a multiple of {plain['multipleOf']}"
    if not is_media:
        yield from _range(plain, "minLength", "maxLength", " characters")
    yield from _range(plain, "minItems", "maxItems", " in the list")
    if "pattern" in plain:
        yield f"fits {plain['pattern']}"
    if isinstance(entries := plain.get("items"), Mapping):
        yield from (f"each: {rule}" for rule in _rules(entries, is_media=is_media))


def _range(plain: Mapping[str, Any], least: str, most: str, unit: str) -> Iterator[str]:
    if least in plain and most in plain:
        yield f"{plain[least]} to {plain[most]}{unit}"
    elif least in plain:
        yield f"at least {plain[least]}{unit}"
    elif most in plain:
        yield f"at most {plain[most]}{unit}"


def _validations(field: Mapping[str, Any]) -> list[str]:
    """What a media file has to be like, in RunComfy's own sentences."""
    said: dict[str, None] = {}
    rules = [
        *_list(field.get("validations")),
        *_list(_mapping(field.get("items")).get("validations")),
    ]
    for rule in map(_mapping, rules):
        sentence = rule.get("validation_error")
        written = f"{rule.get('validation_rule', '')} {rule.get('validation_value', '')}".strip()
        said[str(sentence) if sentence else written] = None
    return [sentence for sentence in said if sentence]


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or default in ("", []) else _short(default)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _followed(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or what it refers to within the same document."""
    found = _mapping(schema)
    for _ in range(_DEEPEST):
        if not isinstance(reference := found.get("$ref"), str):
            break
        target: Any = root
        for part in filter(None, reference.removeprefix("#").split("/")):
            target = _mapping(target).get(part)
        beside = {key: value for key, value in found.items() if key != "$ref"}
        found = {**_mapping(target), **beside}
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
