"""YAML documents that know where each value was written, and say mistakes in words for people.

Pipelines and profiles are read here, by the same rules.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from rapidfuzz import fuzz, process
from ruamel.yaml.nodes import CollectionNode, ScalarNode

from comfyline.errors import InputInvalid, Problem, UsageError
from comfyline.job import Pointer
from comfyline.yamlnodes import QUOTE_IT, NodeReader, in_words, place_in

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LocatedYaml:
    """A mapping read from YAML, as plain Python values, and where each of them was written."""

    path: Path
    data: dict[str, Any]
    positions: Mapping[Pointer, str] = field(default_factory=dict)

    def where(self, pointer: Pointer = ()) -> str:
        """The place of a value as `path:line:column`, counted from 1.

        An entry of a mapping is where its key stands, an entry of a list where it begins. What
        was never written, such as a missing key, is where the nearest parent is.
        """
        for length in range(len(pointer), -1, -1):
            if place := self.positions.get(pointer[:length]):
                return place
        return f"{self.path}:1:1"


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """The hint for a misspelt word: ``did you mean `steps`?``, or nothing when none is near."""
    found = process.extractOne(word, choices, scorer=fuzz.ratio, score_cutoff=60)
    return f"did you mean `{found[0]}`?" if found else ""


def load_yaml(path: Path) -> LocatedYaml:
    """Reads one YAML document that is a mapping; raises InputInvalid with each mistake."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputInvalid([Problem(str(path), "there is no such file", _near(path))]) from None
    except UnicodeDecodeError as error:
        place = place_in(str(path), error.object.decode("latin-1"), error.start)
        hint = "save the file in UTF-8"
        raise InputInvalid([Problem(place, "the file is not UTF-8 text", hint)]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputInvalid([Problem(str(path), f"the file cannot be read: {reason}")]) from None
    reader = NodeReader(str(path))
    root = reader.compose(text)
    if root is None:
        raise InputInvalid([Problem(f"{path}:1:1", "the file is empty")])
    reader.positions[()] = reader.place(root)
    mapping = reader.build(root, ())
    if not isinstance(mapping, dict):
        reader.report(root, f"the file should be a mapping (key: value), not {in_words(mapping)}")
    if reader.problems:
        raise InputInvalid(reader.problems)
    return LocatedYaml(path, mapping, reader.positions)


def apply_overrides(located: LocatedYaml, overrides: Sequence[str]) -> LocatedYaml:
    """Gives the document with each `key.path=value` put in; the given one stays as it is.

    The value is read as a YAML scalar or in flow style. A number in the path is an entry of a
    list. What an override sets is later located as `--set key.path=value`.
    """
    document = deepcopy(located.data)
    positions = dict(located.positions)
    for override in overrides:
        label = f"--set {override}"
        name, equals, written = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"`{label}` is not understood", hint="write --set key.path=value")
        pointer = _put(document, keys, _override_value(written.strip(), label), label)
        positions = {at: p for at, p in positions.items() if at[: len(pointer)] != pointer}
        for length in range(1, len(pointer) + 1):
            positions.setdefault(pointer[:length], label)
    return LocatedYaml(located.path, document, positions)


def validate_document(located: LocatedYaml, document_class: type[Document]) -> Document:
    """Reads the YAML into its pydantic class; raises InputInvalid with every mistake, located.

    A class may name keys of a later version in a class variable `not_yet`: they are refused as
    "not supported yet" and not as misspelt.
    """
    try:
        return document_class.model_validate(located.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_problem(located, document_class, detail) for detail in details]
        raise InputInvalid(dict.fromkeys(problems)) from None


def _near(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except (OSError, ValueError):
        return ""
    return did_you_mean(path.name, names)


_NOT_MEANT = ("*", "&", "!", "%", "@", "`")
"""What YAML reads as an alias, a tag and the like, and a person types as a pattern or a word."""


def _override_value(written: str, label: str) -> Any:
    """Reads the right side of `--set`; text that only looks like YAML stays what was typed."""
    if written.startswith(("{{", *_NOT_MEANT)):
        return written
    reader = NodeReader(label)
    try:
        node = reader.compose(written)
        if node is None:
            return None
        if isinstance(node, CollectionNode):
            is_typed_text = not node.flow_style
        else:
            # A comment sign or a fold would have cut something off.
            is_plain = isinstance(node, ScalarNode) and not node.style
            is_typed_text = is_plain and node.value != written
        if is_typed_text:
            return written
        value = reader.build(node, ())
    except InputInvalid as error:
        reader.problems.extend(error.problems)
    if reader.problems:
        raise UsageError(f"`{label}`: {reader.problems[0].message}", hint=QUOTE_IT)
    return value


def _put(document: dict[str, Any], keys: list[str], value: Any, label: str) -> Pointer:
    """Sets one value in place, creating mappings on the way; gives where it was put."""
    parent: Any = document
    pointer: list[str | int] = []
    for depth, key in enumerate(keys):
        if isinstance(parent, list) and key.isdecimal() and int(key) < len(parent):
            pointer.append(int(key))
        elif isinstance(parent, dict):
            pointer.append(key)
        else:
            above = ".".join(keys[:depth])
            raise UsageError(f"`{label}`: there is no `{key}` in `{above}`, {in_words(parent)}")
        if depth < len(keys) - 1:
            if isinstance(parent, dict) and parent.get(key) is None:
                parent[key] = {}
            parent = parent[pointer[-1]]
    parent[pointer[-1]] = value
    return tuple(pointer)


_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "list": "a list",
    "tuple": "a list",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _problem(located: LocatedYaml, root: type[BaseModel], detail: ErrorDetails) -> Problem:
    """One pydantic error in words, with the place where the YAML is to be mended."""
    # Pydantic marks a wrong key of a mapping by an entry of its own.
    pointer: Pointer = tuple(key for key in detail["loc"] if key != "[key]")
    name = str(pointer[-1]) if pointer else "the document"
    parent = _class_at(root, pointer[:-1])
    known = parent.model_fields if parent else {}
    described = (known[name].description if name in known else None) or ""
    hint = f"{name}: {described}" if described else ""
    match detail["type"]:
        case "extra_forbidden" if name in getattr(parent, "not_yet", ()):
            message, hint = f"`{name}` is not supported yet", ""
        case "extra_forbidden":
            message = f"`{name}` is not a key that is known here"
            hint = did_you_mean(name, list(known)) or "allowed here: " + ", ".join(known)
        case "missing":
            message = f"`{name}` is missing"
        case _:
            nearest = next((key for key in reversed(pointer) if isinstance(key, str)), name)
            message = f"`{nearest}` {_in_words(detail)}"
            is_number = isinstance(detail["input"], int | float)
            hint = "write it in quotes" if "should be text" in message and is_number else hint
    return Problem(located.where(pointer), message, hint)


def _in_words(detail: ErrorDetails) -> str:
    """What is wrong with one value, as the end of a sentence that begins with its name."""
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
        return f"does not accept {value!r}"
    if expected := _EXPECTED.get(kind.split("_", maxsplit=1)[0]):
        return f"should be {expected}, not {in_words(value)}"
    return detail["msg"].removeprefix("Input ")


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
