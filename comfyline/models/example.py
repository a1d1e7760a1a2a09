"""An example of a model's inputs that the model accepts, and the pipeline step around it.

Made from the schema alone: a default where there is one, else the simplest value that fits. Media
are file names of the right kind, to be replaced by files that are there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from comfyline.job import MediaKind, Pointer
from comfyline.keys import replace_values
from comfyline.models.check import find_mistakes
from comfyline.models.dialect import media_fields
from comfyline.models.engine import compile_schema
from comfyline.models.entry import ModelEntry

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
_DEEPEST = 6


def example_step(entry: ModelEntry) -> str:
    """A pipeline's `steps` with one step of this model, in YAML, ready to paste.

    What the model requires is filled in, and the rest stands there as comments.
    """
    required, all_inputs = example_inputs(entry), example_inputs(entry, optional=True)
    lines = ["steps:", f"  {_step_name(entry.model_id)}:", f"    model: {entry.model_id}"]
    lines.append("    input:" if required else "    input: {}")
    lines += [f"      {_yaml(name)}: {_yaml(value)}" for name, value in required.items()]
    rest = {name: value for name, value in all_inputs.items() if name not in required}
    lines += [f"      # {_yaml(name)}: {_yaml(value)}" for name, value in rest.items()]
    return "\n".join(lines) + "\n"


def example_inputs(entry: ModelEntry, *, optional: bool = False) -> dict[str, Any]:
    """Inputs that fit the model: the required ones, or with `optional` all of them."""
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
    written = entry.input_schema.get("properties")
    plain = entry.plain_schema.get("properties", {})
    inputs: dict[str, Any] = {}
    for name in names:
        field = written.get(name) if isinstance(written, Mapping) else None
        default = field.get("default") if isinstance(field, Mapping) else None
        inputs[name] = _value(plain.get(name, {}), name, default, 0)
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
    """The first candidate that fits; when none does, the first there is."""
    candidates = list(_candidates(plain, name, default, depth))
    return next((one for one in candidates if _fits(plain, one)), next(iter(candidates), _TEXT))


def _candidates(plain: Mapping[str, Any], name: str, default: Any, depth: int) -> Iterator[Any]:
    if default not in (None, "", [], {}):
        yield default
    yield from plain.get("enum", ())
    if "const" in plain:
        yield plain["const"]
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in plain.get(key, ()) if depth < _DEEPEST else ():
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
            least = plain.get("minimum", plain.get("exclusiveMinimum"))
            most = plain.get("maximum", plain.get("exclusiveMaximum"))
            step = plain.get("multipleOf", 1)
            yield from (number for number in (1, 0, least, most, step) if number is not None)
            if least is not None:
                yield from (least + 1, (least // step + 1) * step)
            if most is not None:
                yield most - 1
            if least is not None and most is not None:
                yield (least + most) / 2
        case "boolean":
            yield from (True, False)
        case "array" if depth < _DEEPEST:
            many = max(1, plain.get("minItems", 1))
            yield [_value(plain.get("items", {}), name, None, depth + 1)] * many
        case "object" if depth < _DEEPEST:
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
    """A name that templates can use, from the end of the model's id that says what it does."""
    parts = [part.replace("-", "_").replace(".", "_") for part in model_id.split("/")]
    return next((part for part in reversed(parts) if _IDENTIFIER.fullmatch(part)), "make")


def _yaml(value: Any) -> str:
    """A value on one line; JSON is YAML, and a plain word needs no quotes."""
    if isinstance(value, str) and _IDENTIFIER.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(value, default=str)


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
"""Words that YAML takes for something else."""
