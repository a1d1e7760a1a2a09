"""Validate a YAML document with its pydantic class; put every mistake into words, at its place."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.yaml.file import LocatedYaml
from comfyline.yaml.scalars import how_to_write, in_words

Document = TypeVar("Document", bound=BaseModel)

_Detail = Mapping[str, Any]
"""One error as pydantic lists it."""

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
"""What is due, by the first word of pydantic's name for an error."""
_OF_KIND = ("_type", "_parsing", "_from_float", "_required")
"""What pydantic's names for a value of a wrong kind end with."""
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def validate_document(located: LocatedYaml, document_class: type[Document]) -> Document:
    """Read YAML into its pydantic class. Raises `InputInvalid` with every mistake, located."""
    try:
        return document_class.model_validate(located.data)
    except ValidationError as error:
        places = _by_place(located.data, error.errors(include_url=False))
        problems = [_problem(located, document_class, *place) for place in places]
        raise InputInvalid(dict.fromkeys(problems)) from None


def _by_place(
    data: Mapping[str, Any], details: Sequence[_Detail]
) -> list[tuple[Pointer, list[_Detail]]]:
    """Return errors with where they are; those of one value's alternatives stand together."""
    placed: list[tuple[Pointer, list[_Detail]]] = []
    alternatives: dict[Pointer, list[_Detail]] = {}
    for detail in details:
        pointer = _in_document(data, detail)
        if _expected(detail) and pointer in alternatives:
            alternatives[pointer].append(detail)
            continue
        placed.append((pointer, [detail]))
        if _expected(detail):
            alternatives[pointer] = placed[-1][1]
    return placed


def _in_document(data: Any, detail: _Detail) -> Pointer:
    """Locate an error, without what pydantic adds for keys and for alternatives of a type."""
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
    located: LocatedYaml, root: type[BaseModel], pointer: Pointer, details: list[_Detail]
) -> Problem:
    """Put one mistake into words, with the place where the YAML is to be mended."""
    name = str(pointer[-1]) if pointer else "the document"
    section = _section_at(root, pointer[:-1])
    known = section.model_fields if section else {}
    described = (known[name].description if name in known else None) or ""
    hint = f"{name}: {described}" if described else ""
    match details[0]["type"]:
        case "extra_forbidden":
            message = f"unknown key `{name}`"
            hint = did_you_mean(name, list(known)) or "allowed here: " + ", ".join(known)
        case "missing":
            message = f"`{name}` is missing"
        case _:
            nearest = next((key for key in reversed(pointer) if isinstance(key, str)), name)
            message = f"`{nearest}` {_in_words(details)}"
            hint = _instead(details) or hint
    return Problem(located.where(pointer), message, hint)


def _in_words(details: Sequence[_Detail]) -> str:
    """Say what is wrong with one value: the end of a sentence that begins with its name."""
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
        return f"should have {words} {count} {noun}, but has {len(value)}"
    if kind == "string_pattern_mismatch":
        return f"does not accept {in_words(value)}"
    if expected := [_expected(one) for one in details if _expected(one)]:
        return f"should be {' or '.join(dict.fromkeys(expected))}, not {in_words(value)}"
    return str(detail["msg"]).removeprefix("Input ")


def _expected(detail: _Detail) -> str:
    """Say what kind of value was due; empty when it is not the kind that is wrong."""
    kind = detail["type"]
    if kind in ("literal_error", "enum"):
        return str(detail.get("ctx", {})["expected"]).replace("'", "`")
    return _EXPECTED.get(kind.split("_", maxsplit=1)[0], "") if kind.endswith(_OF_KIND) else ""


def _instead(details: Sequence[_Detail]) -> str:
    """Say how a value of the wrong kind is to be written, where that is plain."""
    value, kinds = details[0]["input"], {_expected(detail) for detail in details}
    if value is None:  # What should stand there only its writer knows; it may have to be there.
        return ""
    if (hint := how_to_write(value, kinds)) or not isinstance(value, str):
        return hint
    literals = [kind for kind in kinds if "`" in kind]
    return did_you_mean(value, [one for kind in literals for one in kind.split("`")[1::2]])


def _section_at(root: type[BaseModel], pointer: Pointer) -> type[BaseModel] | None:
    """Return the document class that describes the value at a pointer, if one does."""
    annotation: Any = root
    for key in pointer:
        if section := _section(annotation):
            field = section.model_fields.get(str(key))
            annotation = field.annotation if field else None
        else:
            entries = [get_args(one)[-1] for one in _members(annotation) if get_args(one)]
            annotation = entries[0] if entries else None
    return _section(annotation)


def _section(annotation: Any) -> type[BaseModel] | None:
    classes = (one for one in _members(annotation) if isinstance(one, type))
    return next((one for one in classes if issubclass(one, BaseModel)), None)


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    if get_origin(annotation) in (dict, list, tuple, Mapping, Sequence) or not get_args(annotation):
        return [annotation]
    return [member for part in get_args(annotation) for member in _members(part)]
