"""Every mistake in a model's inputs at once, in words, before anything is paid for."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jsonschema_rs import ValidationError, ValidationErrorKind

from comfyline.errors import Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.keys import replace_values
from comfyline.models.dialect import compile_schema, media_fields
from comfyline.models.entry import ModelEntry
from comfyline.yaml.file import Mistake, field_path, texts_in
from comfyline.yaml.scalars import how_to_write, in_words

_DEEPEST = 64
"""Levels of lists and mappings within one another: more is a mistake, and nothing a model reads."""
_LISTED = 24
_LONGEST = 60
_SIZE = re.compile(r"(?<=\d)\s*[x×*/\-_.,:]\s*(?=\d)", re.IGNORECASE)
_TYPES = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_SENTENCES = {
    "minimum": "{value} is too small; the minimum is {rule}",
    "maximum": "{value} is too large; the maximum is {rule}",
    "exclusiveMinimum": "{value} is too small; it must be more than {rule}",
    "exclusiveMaximum": "{value} is too large; it must be less than {rule}",
    "multipleOf": "{value} is not a multiple of {rule}",
    "minItems": "has {count} entries, which is too few; the minimum is {rule}",
    "maxItems": "has {count} entries, which is too many; the maximum is {rule}",
    "minLength": "is too short; the minimum is {rule} characters",
    "maxLength": "is too long with {count} characters; the maximum is {rule}",
    "uniqueItems": "contains the same value twice",
    "pattern": "{value} does not match the pattern {rule}",
    "const": "{value} is not {rule}, the only value that is accepted",
    "oneOf": "{value} matches several alternatives at once",
}
_NO_BRANCH_FITS = (ValidationErrorKind.AnyOf, ValidationErrorKind.OneOfNotValid)
_OF_THE_WHOLE = {"required", "additionalProperties", "minItems", "maxItems", "type"}
"""Rules that a list or a mapping breaks whatever the values in it turn out to be."""


def check_inputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> list[Problem]:
    """List every mistake in the inputs, each at its field's path.

    A missing required field is a mistake even where the schema has a default: that default is
    the model page's example, and an example is never submitted and paid for silently.
    """
    return [
        Problem(field_path(mistake.pointer), mistake.message, mistake.hint)
        for mistake in find_mistakes(entry, inputs)
    ]


def find_mistakes(
    entry: ModelEntry, inputs: Mapping[str, Any], is_open: Callable[[str], bool] | None = None
) -> list[Mistake]:
    """List the mistakes by pointers into the inputs, for who knows where values were written.

    `is_open` says of a text that its value is not known yet, as of a template: then only what
    holds for every value is a mistake.
    """
    if deep := [name for name, value in inputs.items() if is_too_deep(value)]:
        return [Mistake((name,), f"is nested more than {_DEEPEST} levels deep") for name in deep]
    try:
        errors = list(entry.validator.iter_errors(dict(inputs)))
    except ValueError:
        said = "contains something that JSON cannot represent"
        return [Mistake((name,), said) for name, value in inputs.items() if not _is_json(value)]
    if is_open:
        errors = [one for one in errors if not _may_still_fit(one, inputs, is_open)]
    # Of a value of the wrong type nothing else is worth saying.
    other_type = {tuple(one.instance_path) for one in errors if _rule_name(one) == "type"}
    found = (
        mistake
        for one in errors
        if _rule_name(one) == "type" or tuple(one.instance_path) not in other_type
        for mistake in _mistakes(one, entry.plain_schema, inputs)
    )
    return sorted(dict.fromkeys(found), key=lambda mistake: [str(key) for key in mistake.pointer])


def is_too_deep(value: Any) -> bool:
    """Tell whether a value is nested so deep that nothing can safely be done with it."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return False
    return True


def _rule_name(error: ValidationError) -> str:
    return str(error.schema_path[-1])


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def _is_json(value: Any) -> bool:
    try:
        return compile_schema({}).is_valid(value)
    except ValueError:
        return False


def _may_still_fit(error: ValidationError, inputs: Any, is_open: Callable[[str], bool]) -> bool:
    broken = _at(inputs, error.instance_path)
    if isinstance(broken, dict | list) and _rule_name(error) in _OF_THE_WHOLE:
        return False
    return any(is_open(text) for _, text in texts_in(broken))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _mistakes(error: ValidationError, plain: Mapping[str, Any], inputs: Any) -> Iterator[Mistake]:
    """Put an error into words, by the schema and the inputs: the engine has no endless numbers."""
    *above, name = error.schema_path
    pointer, schema = tuple(error.instance_path), _at(plain, above)
    value, rule = _at(inputs, pointer), schema[name]
    match name:
        case "required":
            for name in rule:
                if name not in value:
                    yield Mistake((*pointer, name), "is missing; the model requires it")
        case "additionalProperties":
            known = list(schema.get("properties", ()))
            for name in value:
                if name not in known:
                    hint = nearest_choice(name, known) or "there are: " + _listed(known)
                    yield Mistake((*pointer, name), "the model has no such field", hint)
        case "enum":
            hint = nearest_choice(value, rule)
            yield Mistake(pointer, f"{_short(value)} is not one of {_listed(rule)}", hint)
        case "type":
            wanted = [_TYPES[name] for name in rule]
            choices = schema.get("enum", []) if value is not None else []
            hint = nearest_choice(value, choices) if choices else how_to_write(value, wanted)
            hint = hint or (f"it is one of {_listed(choices)}" if choices else "")
            yield Mistake(pointer, f"should be {' or '.join(wanted)}, not {in_words(value)}", hint)
        case "minLength" if not value:
            yield Mistake(pointer, "is empty")
        case "anyOf" | "oneOf" if isinstance(error.kind, _NO_BRANCH_FITS) and error.kind.context:
            for inner in min(error.kind.context, key=lambda one: _distance(one, pointer)):
                yield from _mistakes(inner, plain, inputs)
        case name:
            sentence = _SENTENCES.get(str(name), "{value} is not accepted")
            count = len(value) if isinstance(value, str | list) else 0
            said = sentence.format(value=_short(value), rule=_short(rule), count=count)
            yield Mistake(pointer, said)


def _distance(alternative: Sequence[ValidationError], pointer: Pointer) -> tuple[bool, int]:
    """Tell how far an alternative is from fitting: furthest if it is for another type."""
    other_type = any(
        _rule_name(one) == "type" and tuple(one.instance_path) == pointer for one in alternative
    )
    return other_type, len(alternative)


def _listed(values: list[Any]) -> str:
    more = ", …" if len(values) > _LISTED else ""
    return ", ".join(_written(value) for value in values[:_LISTED]) + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _written(value: Any) -> str:
    """Write a value as people read it: text bare, the rest as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def nearest_choice(value: Any, choices: Sequence[Any]) -> str:
    """Return the hint for a value that is not among the choices; empty if none is near.

    People write `16x9`, `2k` and `PNG`, and a number where a text is due.
    """
    by_plain = {_plain(choice): choice for choice in reversed(choices)}
    plain = _plain(value)
    if plain not in by_plain:
        near = did_you_mean(plain, list(by_plain))
        plain = near.removeprefix("did you mean `").removesuffix("`?")
    elif isinstance(value, str) and not isinstance(by_plain[plain], str):
        return f"write it without quotes: `{_written(by_plain[plain])}`"
    if plain not in by_plain:
        return ""
    choice = _written(by_plain[plain])
    # The same word is told in quotes: it is the type that was wrong.
    is_same = isinstance(by_plain[plain], str) and choice == _written(value)
    return f'did you mean `"{choice}"`?' if is_same else f"did you mean `{choice}`?"


def _plain(value: Any) -> str:
    return _SIZE.sub(":", _written(value).strip().casefold())


def fit_inputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Read text in inputs as a number, a switch, a list or an object where one is due.

    A medium may be written `@photo.jpg`, as curl has it. What does not fit is left as it is, for
    the check to complain about.
    """
    if is_too_deep(inputs):
        return dict(inputs)
    fields = entry.plain_schema.get("properties", {})
    fitted = {name: _fit(fields.get(name, {}), value) for name, value in inputs.items()}
    marked = (one for one in media_fields(entry.input_schema, fitted) if one.value.startswith("@"))
    return replace_values(fitted, {one.pointer: one.value.removeprefix("@") for one in marked})


def _fit(field: Mapping[str, Any], value: Any) -> Any:
    types = _types_of(field)
    if isinstance(value, str) and types and "string" not in types:
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if "array" in types and "string" not in types and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        return [_fit(field.get("items", {}), one) for one in value]
    return value


def _types_of(field: Mapping[str, Any]) -> set[str]:
    """List the types that a field takes by its alternatives; none if one of them takes all."""
    if "type" in field:
        return set(field["type"])
    branches = [_types_of(one) for one in (*field.get("anyOf", ()), *field.get("oneOf", ()))]
    return set().union(*branches) if all(branches) else set()
