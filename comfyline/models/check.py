"""Every mistake in a model's inputs at once, in words, before anything is paid for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import ValidationError, ValidationErrorKind

from comfyline.errors import Problem
from comfyline.job import Pointer
from comfyline.models.engine import compile_schema
from comfyline.models.entry import ModelEntry
from comfyline.models.nearest import as_type, nearest_choice, written

_LISTED = 24
_DEEPEST = 64
"""Levels of lists and mappings within one another: more is a mistake, and nothing a model reads."""
_LONGEST = 60
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
    "minimum": "{value} is too small; the least is {rule}",
    "maximum": "{value} is too large; the most is {rule}",
    "exclusiveMinimum": "{value} is too small; it has to be more than {rule}",
    "exclusiveMaximum": "{value} is too large; it has to be less than {rule}",
    "multipleOf": "{value} is not a multiple of {rule}",
    "minItems": "holds {count}, which is too few; the least is {rule}",
    "maxItems": "holds {count}, which is too many; the most is {rule}",
    "minLength": "is too short; the least is {rule} characters",
    "maxLength": "is too long with {count} characters; the most is {rule}",
    "uniqueItems": "holds the same value twice",
    "pattern": "{value} does not fit the pattern {rule}",
    "const": "{value} is not {rule}, the only value that is accepted",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One value that the model would not accept: where in the inputs, why, what to write."""

    pointer: Pointer
    message: str
    hint: str = ""


def check_inputs(entry: ModelEntry, inputs: Mapping[str, Any]) -> list[Problem]:
    """Gives every mistake in the inputs, each at its field's path; an empty list means it fits.

    A missing required field is a mistake even where the schema has a default: that default is
    the model page's example, and an example is never submitted and paid for silently.
    """
    if _fits(entry, inputs):
        return []
    return [
        Problem(field_path(mistake.pointer), mistake.message, mistake.hint)
        for mistake in find_mistakes(entry, inputs)
    ]


def find_mistakes(
    entry: ModelEntry, inputs: Mapping[str, Any], is_open: Callable[[Any], bool] | None = None
) -> list[Mistake]:
    """The same with pointers into the inputs, for who knows where each value was written.

    `is_open` says of a text that its value is not known yet, as of a template: then only what
    holds for every value is a mistake.
    """
    if too_deep := [name for name, value in inputs.items() if is_too_deep(value)]:
        return [
            Mistake((name,), f"is nested more than {_DEEPEST} levels deep") for name in too_deep
        ]
    try:
        errors = list(entry.validator.iter_errors(dict(inputs)))
    except ValueError:
        return [
            Mistake((name,), "holds what cannot be sent as JSON")
            for name, value in inputs.items()
            if not _is_json(value)
        ]
    broken = [
        rule
        for rule in (_Broken.of(error, entry.plain_schema, inputs) for error in errors)
        if is_open is None or not _may_still_fit(rule, is_open)
    ]
    # Of a value of the wrong type nothing else is worth saying.
    other_type = {rule.pointer for rule in broken if rule.name == "type"}
    found = (
        mistake
        for rule in broken
        if rule.name == "type" or rule.pointer not in other_type
        for mistake in _mistakes(rule)
    )
    return sorted(dict.fromkeys(found), key=lambda mistake: [str(key) for key in mistake.pointer])


@dataclass(frozen=True, slots=True)
class _Broken:
    """A rule that a value breaks: where the value is, and the schema in which the rule stands.

    The value is the one that was given: the engine has no endless numbers.
    """

    pointer: Pointer
    value: Any
    name: str
    rule: Any
    schema: Mapping[str, Any]
    alternatives: tuple[tuple["_Broken", ...], ...] = ()

    @classmethod
    def of(cls, error: ValidationError, plain: Mapping[str, Any], inputs: Any) -> "_Broken":
        """What the engine says, in the words of the schema and the inputs."""
        *above, name = error.schema_path
        schema = _at(plain, above)
        branches = (
            error.kind.context
            if isinstance(error.kind, ValidationErrorKind.AnyOf | ValidationErrorKind.OneOfNotValid)
            else ()
        )
        return cls(
            tuple(error.instance_path),
            _at(inputs, error.instance_path),
            str(name),
            schema[name],
            schema,
            tuple(tuple(cls.of(inner, plain, inputs) for inner in one) for one in branches),
        )


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def _is_json(value: Any) -> bool:
    try:
        return compile_schema({}).is_valid(value)
    except ValueError:
        return False


_OF_THE_WHOLE = {"required", "additionalProperties", "minItems", "maxItems", "type"}
"""Rules that a list or a mapping breaks whatever the values in it turn out to be."""


def _may_still_fit(broken: _Broken, is_open: Callable[[Any], bool]) -> bool:
    if isinstance(broken.value, dict | list) and broken.name in _OF_THE_WHOLE:
        return False
    left = [broken.value]
    while left:
        value = left.pop()
        if is_open(value):
            return True
        left.extend(_inside(value))
    return False


def is_too_deep(value: Any) -> bool:
    """Whether a value is nested so deep that nothing can safely be done with it."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _fits(entry: ModelEntry, inputs: Mapping[str, Any]) -> bool:
    """A quick look that most inputs pass; False also says that a closer one is needed."""
    if any(is_too_deep(value) for value in inputs.values()):
        return False
    try:
        return entry.validator.is_valid(dict(inputs))
    except ValueError:
        return False  # A value that is no JSON.


def field_path(pointer: Pointer) -> str:
    """A field as people write it: `image_urls[0]`, `options.seed`."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in pointer)
    return "".join(parts).removeprefix(".") or "input"


def _mistakes(broken: _Broken) -> Iterator[Mistake]:
    pointer, value, rule = broken.pointer, broken.value, broken.rule
    match broken.name:
        case "required":
            for name in rule:
                if name not in value:
                    yield Mistake((*pointer, name), "is missing; the model requires it")
        case "additionalProperties":
            known = list(broken.schema.get("properties", ()))
            for name in value:
                if name not in known:
                    hint = nearest_choice(name, known) or "there are: " + _listed(known)
                    yield Mistake((*pointer, name), "the model has no such field", hint)
        case "enum":
            hint = nearest_choice(value, rule)
            yield Mistake(pointer, f"{_short(value)} is not one of {_listed(rule)}", hint)
        case "type":
            wanted = " or ".join(_TYPES[name] for name in rule)
            hint = "leave the field out" if value is None else _meant(value, rule, broken.schema)
            yield Mistake(pointer, f"should be {wanted}, not {_kind(value)}", hint)
        case "minLength" if not value:
            yield Mistake(pointer, "is empty")
        case "anyOf" | "oneOf":
            yield from _nearest(broken)
        case name if sentence := _SENTENCES.get(name):
            count = len(value) if isinstance(value, str | list) else 0
            yield Mistake(
                pointer, sentence.format(value=_short(value), rule=_short(rule), count=count)
            )
        case _:
            yield Mistake(pointer, f"{_short(value)} is not accepted")


def _meant(value: Any, types: list[str], schema: Mapping[str, Any]) -> str:
    """How a value of the wrong type is to be written."""
    if choices := schema.get("enum"):
        return nearest_choice(value, choices) or f"it is one of {_listed(choices)}"
    return as_type(value, types)


def _nearest(broken: _Broken) -> Iterator[Mistake]:
    """Of several alternatives, the mistakes in the one that is nearest to fitting."""
    if not broken.alternatives:
        yield Mistake(broken.pointer, f"{_short(broken.value)} fits several alternatives at once")
        return
    # A branch for another type is further away than one whose type fits.
    nearest = min(broken.alternatives, key=lambda one: (_is_other_type(one, broken), len(one)))
    for inner in nearest:
        yield from _mistakes(inner)


def _is_other_type(alternative: Iterable[_Broken], broken: _Broken) -> bool:
    return any(one.name == "type" and one.pointer == broken.pointer for one in alternative)


def _listed(values: list[Any]) -> str:
    more = ", …" if len(values) > _LISTED else ""
    return ", ".join(written(value) for value in values[:_LISTED]) + more


def _short(value: Any) -> str:
    try:
        written = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return "a very large number"
    return written if len(written) <= _LONGEST else written[:_LONGEST] + "…"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {_short(value)}"
        case str():
            return f"the text {_short(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"
