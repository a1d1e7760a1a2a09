"""Describe a model to whoever writes a pipeline by hand: its inputs, an example, its changes."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from comfyline.job import MediaKind, Pointer
from comfyline.keys import replace_values
from comfyline.models.check import find_mistakes
from comfyline.models.dialect import as_list, as_mapping, compile_schema, media_fields, resolve
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
    """List every input of a model in its schema's order, those within objects after their object.

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
    properties = as_mapping(resolve(written, root)[0].get("properties"))
    required = plain.get("required", [])
    for name, rules in plain.get("properties", {}).items():
        own = resolve(properties.get(name), root)[0]
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
    """Name the media that a field takes, by trying: the dialect is known in one place."""
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
    """Say what a media file has to be like, in RunComfy's own sentences."""
    said: dict[str, None] = {}
    items = as_mapping(field.get("items"))
    rules = [*as_list(field.get("validations")), *as_list(items.get("validations"))]
    for rule in map(as_mapping, rules):
        sentence = rule.get("validation_error")
        written = f"{rule.get('validation_rule', '')} {rule.get('validation_value', '')}".strip()
        said[str(sentence) if sentence else written] = None
    return [sentence for sentence in said if sentence]


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or default in ("", []) else _short(default)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FILES: Mapping[MediaKind, tuple[str, str]] = {
    "image": ("photo", "jpg"),
    "video": ("film", "mp4"),
    "audio": ("sound", "mp3"),
}
_TEXTS: Mapping[str, str] = {
    "prompt": "A red door in soft morning light.",
    "tags": "calm piano, warm strings",
}
_TEXT = "An example."
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_TEMPLATE = ("{{", "{%", "{#")
_DEEPEST_EXAMPLE = 6


def example_step(entry: ModelEntry) -> str:
    """Write a pipeline's `steps` with one step of this model, in YAML, ready to paste.

    What the model requires is filled in, and the rest stands there as comments.
    """
    required, all_inputs = example_inputs(entry), example_inputs(entry, optional=True)
    lines = ["steps:", f"  {_step_name(entry.model_id)}:", f"    model: {entry.model_id}"]
    lines.append("    input:" if required else "    input: {}")
    lines += [f"      {_yaml(name, value)}" for name, value in required.items()]
    rest = {name: value for name, value in all_inputs.items() if name not in required}
    lines += [f"      # {_yaml(name, value)}" for name, value in rest.items()]
    return "\n".join(lines) + "\n"


def example_inputs(entry: ModelEntry, *, optional: bool = False) -> dict[str, Any]:
    """Make inputs that fit the model: the required ones, or with `optional` all of them."""
    plain = entry.plain_schema
    named = list(plain.get("properties", {}) if optional else plain.get("required", ()))
    # Some models require one of several fields, and say so in alternatives.
    others = [
        list(branch.get("required", ()))
        for key in ("anyOf", "oneOf")
        for branch in plain.get(key, ())
    ]
    made: dict[str, Any] = {}
    for more in ([], *others):
        made = _inputs(entry, list(dict.fromkeys([*named, *more])))
        if not find_mistakes(entry, made):
            break
    return made


def _inputs(entry: ModelEntry, names: list[str]) -> dict[str, Any]:
    written = as_mapping(entry.input_schema.get("properties"))
    plain = entry.plain_schema.get("properties", {})
    inputs = {
        name: _value(plain.get(name, {}), name, as_mapping(written.get(name)).get("default"), 0)
        for name in names
    }
    files: dict[Pointer, str] = {}
    seen: Counter[MediaKind] = Counter()
    for media in media_fields(entry.input_schema, inputs):
        kind = media.readings[0].kind
        stem, extension = _FILES[kind]
        seen[kind] += 1
        which = f"-{seen[kind]}" if seen[kind] > 1 else ""
        files[media.pointer] = f"{stem}{which}.{extension}"
    return replace_values(inputs, files)


def _value(plain: Mapping[str, Any], name: str, default: Any, depth: int) -> Any:
    """Choose the first candidate that fits, else the first there is."""
    candidates = list(_candidates(plain, name, default, depth))
    return next((one for one in candidates if _fits(plain, one)), next(iter(candidates), _TEXT))


def _candidates(plain: Mapping[str, Any], name: str, default: Any, depth: int) -> Iterator[Any]:
    if default not in (None, "", [], {}):
        yield default
    yield from plain.get("enum", ())
    if "const" in plain:
        yield plain["const"]
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in plain.get(key, ()) if depth < _DEEPEST_EXAMPLE else ():
            yield from _candidates({**plain, key: [], **branch}, name, None, depth + 1)
    types = plain.get("type", ["object"] if "properties" in plain else ["string"])
    for kind in types:
        yield from _of_type(kind, plain, name, depth)


def _of_type(kind: str, plain: Mapping[str, Any], name: str, depth: int) -> Iterator[Any]:
    match kind:
        case "string":
            text = _TEXTS.get(name, _TEXT)
            least = plain.get("minLength", 0)
            yield (text * (least // len(text) + 1) if least > len(text) else text)[
                : plain.get("maxLength")
            ]
        case "integer" | "number":
            most = plain.get("maximum", plain.get("exclusiveMaximum", math.inf))
            least = plain.get("minimum", plain.get("exclusiveMinimum", min(0, most)))
            step = plain.get("multipleOf", 1)
            yield from (1, least, least + 1, (least // step + 1) * step, most, (least + most) / 2)
        case "boolean":
            yield from (True, False)
        case "array" if depth < _DEEPEST_EXAMPLE:
            many = max(1, plain.get("minItems", 1))
            yield [_value(plain.get("items", {}), name, None, depth + 1)] * many
        case "object" if depth < _DEEPEST_EXAMPLE:
            fields = plain.get("properties", {})
            yield {
                inner: _value(fields.get(inner, {}), inner, None, depth + 1)
                for inner in plain.get("required", ())
            }
        case "null":
            yield None
        case _:
            return


def _fits(plain: Mapping[str, Any], value: Any) -> bool:
    if any(mark in json.dumps(value, default=str) for mark in _TEMPLATE):
        # In a pipeline it would be taken for a template.
        return False
    try:
        return compile_schema(plain).is_valid(value)
    except ValueError:
        return False


def _step_name(model_id: str) -> str:
    """Name a step so that templates can use it, by the end of the model's id."""
    parts = [part.replace("-", "_").replace(".", "_") for part in model_id.split("/")]
    return next((part for part in reversed(parts) if _IDENTIFIER.fullmatch(part)), "make")


def _yaml(name: str, value: Any) -> str:
    """Write an input on one line; JSON is YAML, and a plain key needs no quotes."""
    written = name if _IDENTIFIER.fullmatch(name) else json.dumps(name)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{written}: {text if text.isprintable() else json.dumps(value, default=str)}"


_LONGEST = 80


def entry_changes(before: Any, after: Any) -> list[str]:
    """List what differs between two entries, by its place: `input_schema.properties.seed`.

    Empty when both say the same. The order of an object's keys is no difference.
    """
    return list(_changes(before, after, ""))


def _changes(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            inner = f"{place}.{name}" if place else str(name)
            if name not in after:
                yield f"{inner} is gone"
            elif name not in before:
                yield f"{inner} is new: {_shortened(after[name])}"
            else:
                yield from _changes(before[name], after[name], inner)
    elif json.dumps(before) != json.dumps(after):
        yield f"{place or 'the entry'}: {_shortened(before)} → {_shortened(after)}"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


Where = Literal["local", "cached", "catalogue"]


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model and where its schema is taken from; the price is today's, or unknown."""

    entry: ModelEntry
    where: Where


def listing(
    local: Iterable[ModelEntry],
    kept: Iterable[ModelEntry],
    live: Iterable[ModelEntry],
    search: str | None = None,
    category: str | None = None,
) -> list[ListedModel]:
    """List every model once, ordered by id; what is local wins over what is kept.

    `search` is a text in the id, in whatever case; the catalogue has been searched already.
    """
    today = {entry.model_id: entry for entry in live}
    found: dict[str, ListedModel] = {}
    here: tuple[tuple[Where, Iterable[ModelEntry]], ...] = (("local", local), ("cached", kept))
    for where, entries in here:
        for entry in entries:
            if not _is_wanted(entry, search, category):
                continue
            priced = today.get(entry.model_id)
            # A file's price is that of the day on which it was written.
            shown = entry.priced_like(priced) if priced else entry.without_price()
            found.setdefault(entry.model_id, ListedModel(shown, where))
    for entry in today.values():
        found.setdefault(entry.model_id, ListedModel(entry, "catalogue"))
    return [found[model_id] for model_id in sorted(found)]


def _is_wanted(entry: ModelEntry, search: str | None, category: str | None) -> bool:
    is_named = not search or search.lower() in entry.model_id.lower()
    return is_named and (not category or category in entry.categories)
