"""A YAML document into its pydantic class, with every mistake in words and at its place."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.yaml.file import LocatedYaml
from comfyline.yaml.scalars import as_number, as_text, as_truth, in_words

Document = TypeVar("Document", bound=BaseModel)

_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "list": "a list",
    "tuple": "a list",
    "none": "nothing (null)",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def validate_document(located: LocatedYaml, document_class: type[Document]) -> Document:
    """Reads the YAML into its pydantic class; raises InputInvalid with every mistake, located."""
    try:
        return document_class.model_validate(located.data)
    except ValidationError as error:
        details = _by_place(located.data, error.errors(include_url=False))
        problems = [_problem(located, document_class, pointer, found) for pointer, found in details]
        raise InputInvalid(dict.fromkeys(problems)) from None


def _by_place(
    data: Mapping[str, Any], details: Sequence[ErrorDetails]
) -> list[tuple[Pointer, list[ErrorDetails]]]:
    """The errors with where they are; those of one value's alternatives stand together."""
    placed: list[tuple[Pointer, list[ErrorDetails]]] = []
    alternatives: dict[Pointer, list[ErrorDetails]] = {}
    for detail in details:
        pointer = _in_document(data, detail)
        is_alternative = _expected(detail) != ""
        if is_alternative and pointer in alternatives:
            alternatives[pointer].append(detail)
            continue
        found = [detail]
        if is_alternative:
            alternatives[pointer] = found
        placed.append((pointer, found))
    return placed


def _in_document(data: Any, detail: ErrorDetails) -> Pointer:
    """Where an error is, without what pydantic adds for keys and for alternatives of a type."""
    pointer: list[str | int] = []
    value = data
    *above, last = detail["loc"] or ("",)
    for key in above:
        if _holds(value, key):
            pointer.append(key)
            value = value[key]
    if detail["loc"] and (_holds(value, last) or detail["type"] == "missing"):
        pointer.append(last)
    return tuple(pointer)


def _holds(value: Any, key: str | int) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _problem(
    located: LocatedYaml, root: type[BaseModel], pointer: Pointer, details: list[ErrorDetails]
) -> Problem:
    """One mistake in words, with the place where the YAML is to be mended."""
    detail = details[0]
    name = str(pointer[-1]) if pointer else "the document"
    parent = _class_at(root, pointer[:-1])
    known = parent.model_fields if parent else {}
    described = (known[name].description if name in known else None) or ""
    hint = f"{name}: {described}" if described else ""
    match detail["type"]:
        case "extra_forbidden":
            message = f"`{name}` is not a key that is known here"
            hint = did_you_mean(name, list(known)) or "allowed here: " + ", ".join(known)
        case "missing":
            message = f"`{name}` is missing"
        case _:
            nearest = next((key for key in reversed(pointer) if isinstance(key, str)), name)
            message = f"`{nearest}` {_in_words(details)}"
            hint = _meant(details, located.spelt.get(pointer)) or hint
    return Problem(located.where(pointer), message, hint)


def _in_words(details: Sequence[ErrorDetails]) -> str:
    """What is wrong with one value, as the end of a sentence that begins with its name."""
    detail = details[0]
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return f"should be {words} {context[limit]:g}, not {value}"
    if kind in ("too_short", "too_long"):
        words, limit = ("at least", "min") if kind == "too_short" else ("at most", "max")
        count = context[f"{limit}_length"]
        noun = "entry" if count == 1 else "entries"
        return f"should have {words} {count} {noun}, and it has {len(value)}"
    if kind == "string_pattern_mismatch":
        return f"does not accept {in_words(value)}"
    if expected := [_expected(one) for one in details if _expected(one)]:
        return f"should be {' or '.join(dict.fromkeys(expected))}, not {in_words(value)}"
    return detail["msg"].removeprefix("Input ")


def _expected(detail: ErrorDetails) -> str:
    """What kind of value was due, empty when it is not the kind that is wrong."""
    kind = detail["type"]
    if kind in ("literal_error", "enum"):
        return str(detail.get("ctx", {})["expected"]).replace("'", "`")
    return _EXPECTED.get(kind.split("_", maxsplit=1)[0], "") if kind.endswith(_OF_KIND) else ""


_OF_KIND = ("_type", "_parsing", "_from_float", "_required")


def _meant(details: Sequence[ErrorDetails], spelt: str | None) -> str:
    """How a value of the wrong kind is to be written, where that is plain."""
    value, kinds = details[0]["input"], {_expected(detail) for detail in details}
    if not isinstance(value, str):
        is_scalar = value is None or isinstance(value, int | float)
        return as_text(value, spelt) if "text" in kinds and is_scalar else ""
    hint = as_truth(value) if "true or false" in kinds else ""
    if not hint and kinds & {"a number", "a whole number"}:
        hint = as_number(value)
    choices = [
        choice
        for detail in details
        if detail["type"] == "literal_error"
        for choice in _expected(detail).replace(" or ", ", ").replace("`", "").split(", ")
    ]
    return hint or did_you_mean(value, choices)


def _class_at(root: type[BaseModel], pointer: Pointer) -> type[BaseModel] | None:
    """The document class that describes the value at a pointer, if one does."""
    annotation: Any = root
    for key in pointer:
        classes = [found for found in _unfold(annotation) if isinstance(found, type)]
        document_class = next((found for found in classes if issubclass(found, BaseModel)), None)
        if document_class is not None:
            known = document_class.model_fields.get(str(key))
            annotation = known.annotation if known else None
        else:
            inner = [get_args(found) for found in _unfold(annotation) if get_args(found)] or [()]
            annotation = next((part for part in inner[0][::-1] if part is not ...), None)
    found = [entry for entry in _unfold(annotation) if isinstance(entry, type)]
    return next((entry for entry in found if issubclass(entry, BaseModel)), None)


def _unfold(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) in (dict, list, tuple, Mapping, Sequence) or not get_args(annotation):
        return [annotation]
    return [member for part in get_args(annotation) for member in _unfold(part)]
