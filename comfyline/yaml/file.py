"""Read YAML files that know where each value was written, also where one extends another.

Pipelines and profiles are read here, by the same rules; `--set` is put over what was read.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml import CollectionNode, ScalarNode

from comfyline.errors import InputInvalid, Problem, UsageError
from comfyline.job import Pointer
from comfyline.yaml.nodes import QUOTE_IT, NodeReader, nearest_file, place_in
from comfyline.yaml.scalars import in_words

EXTENDS = "extends"
"""The key of a file that names the file which it goes on from."""
_NOT_MEANT = ("{{", "*", "&", "!", "%", "@", "`")
"""What YAML reads as an alias, a tag and the like, and a person types as a template or a word."""


@dataclass(frozen=True, slots=True)
class LocatedYaml:
    """A mapping read from YAML, as plain Python values, and where each of them was written."""

    path: Path
    data: dict[str, Any]
    positions: Mapping[Pointer, str] = field(default_factory=dict)

    def where(self, pointer: Pointer = ()) -> str:
        """Return the place of a value as `path:line:column`, counted from 1.

        An entry of a mapping is where its key stands, an entry of a list where it begins. What
        was never written, such as a missing key, is where the nearest parent is.
        """
        for length in range(len(pointer), -1, -1):
            if place := self.positions.get(pointer[:length]):
                return place
        return f"{self.path}:1:1"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One value that is wrong: where it stands in a larger one, why, and what to write."""

    pointer: Pointer
    message: str
    hint: str = ""

    def at(self, located: LocatedYaml, parent: Pointer) -> Problem:
        """Return the mistake as a problem of the document that has the larger value at `parent`."""
        return Problem(located.where((*parent, *self.pointer)), self.message, self.hint)


def field_path(pointer: Pointer) -> str:
    """Write a pointer as people do: `image_urls[0]`, `options.seed`."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in pointer)
    return "".join(parts).removeprefix(".") or "input"


def texts_in(value: Any, pointer: Pointer = ()) -> Iterator[tuple[Pointer, str]]:
    """Yield every text in a value that stands at `pointer`, with where it stands itself."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from texts_in(inner, (*pointer, key))


@dataclass(frozen=True, slots=True)
class ReadYaml:
    """A file as far as it could be read, and its mistakes.

    `located` is None when it could not be read to the end. What stands in `flawed`, as places, is
    not what was meant.
    """

    located: LocatedYaml | None
    problems: tuple[Problem, ...]
    flawed: frozenset[str] = frozenset()


def load_yaml(path: Path) -> LocatedYaml:
    """Read a YAML file that is a mapping, merged with what it extends.

    Raises `InputInvalid` with every mistake of all these files.
    """
    read = read_yaml(path)
    if read.problems or read.located is None:
        raise InputInvalid(read.problems)
    return read.located


def read_yaml(path: Path) -> ReadYaml:
    """Read a YAML file and everything it extends; collect mistakes instead of raising.

    `extends: FILE` goes on from another file, which may go on from a third. Mappings are merged,
    the nearer file winning; a list or a plain value replaces; null takes away what the other has.
    """
    flawed: set[str] = set()
    problems: list[Problem] = []
    try:
        merged = _read(path, "", (), problems, flawed)
    except InputInvalid as error:
        return ReadYaml(None, (*problems, *error.problems))
    return ReadYaml(merged, tuple(problems), frozenset(flawed))


def _read(
    path: Path, named_at: str, opened: Sequence[Path], problems: list[Problem], flawed: set[str]
) -> LocatedYaml:
    """Read a file and what it extends; add their mistakes to `problems`.

    `named_at` is the place at which another file names it, `opened` are all files that led to it.
    Raises `InputInvalid` for a mistake that ends the reading.
    """
    reader = NodeReader(str(path))
    root = reader.compose(_text(path, named_at))
    if root is None:
        raise InputInvalid([Problem(f"{path}:1:1", "the file is empty")])
    reader.positions[()] = reader.place(root)
    mapping = reader.build(root, ())
    problems += reader.problems
    if not isinstance(mapping, dict):
        message = f"the file should be a mapping (key: value), not {in_words(mapping)}"
        raise InputInvalid([Problem(reader.place(root), message)])
    flawed.update(reader.positions[at] for at in reader.flawed)
    located = LocatedYaml(path, mapping, reader.positions)
    opened = (*opened, path)
    if (following := _extended(located, opened)) is None:
        return located
    named_at = located.where((EXTENDS,))
    return _merged(located, _read(following, named_at, opened, problems, flawed))


def _text(path: Path, named_at: str) -> str:
    where, subject = (named_at, f"{path}: ") if named_at else (str(path), "")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problem = Problem(where, f"{subject}there is no such file", nearest_file(path))
    except UnicodeDecodeError as error:
        place = place_in(str(path), error.object.decode("latin-1"), error.start)
        problem = Problem(place, "the file is not UTF-8 text", "save the file in UTF-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(where, f"{subject}the file cannot be read: {reason}")
    raise InputInvalid([problem])


def _extended(located: LocatedYaml, opened: Sequence[Path]) -> Path | None:
    """Take `extends` out of a document and return the file it names, if any.

    Raises `InputInvalid` when a file extends itself in the end.
    """
    named = located.data.pop(EXTENDS, None)
    if named is None:
        return None
    where = located.where((EXTENDS,))
    hint = "write extends: configs/pipelines/base.yaml, relative to the working directory"
    if not isinstance(named, str) or not named.strip() or "{{" in named:
        message = f"`{EXTENDS}` should be the plain path of one file, not {in_words(named)}"
        raise InputInvalid([Problem(where, message, hint)])
    following = Path(named)
    if following in opened:
        circle = [*opened[opened.index(following) :], following]
        way = " → ".join(str(path) for path in circle)
        raise InputInvalid([Problem(where, f"`{EXTENDS}` forms a circle: {way}")])
    return following


def _merged(nearer: LocatedYaml, further: LocatedYaml) -> LocatedYaml:
    """Put a file on top of the one that it extends; the nearer file's values win."""
    replaced: set[Pointer] = set()
    data = _merged_mapping(nearer.data, further.data, (), replaced)

    positions = {
        at: place
        for at, place in further.positions.items()
        if not any(at[:length] in replaced for length in range(1, len(at) + 1))
    }
    return LocatedYaml(nearer.path, data, positions | dict(nearer.positions))


def _merged_mapping(
    nearer: dict[str, Any], further: dict[str, Any], pointer: Pointer, replaced: set[Pointer]
) -> dict[str, Any]:
    """Merge two mappings; `replaced` gathers which of the further one's values are gone."""
    merged = dict(further)
    for key, value in nearer.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merged_mapping(value, below, (*pointer, key), replaced)
        elif key in merged:
            replaced.add((*pointer, key))
            if value is None:
                del merged[key]
            else:
                merged[key] = value
        else:
            merged[key] = value
    return merged


def apply_overrides(located: LocatedYaml, overrides: Sequence[str]) -> LocatedYaml:
    """Return the document with each `key.path=value` put in; the given one stays as it is.

    The value is read as a YAML scalar or in flow style. A number in the path is an entry of a
    list. What an override sets is later located as `--set key.path=value`. Raises `UsageError`.
    """
    document = deepcopy(located.data)
    positions = dict(located.positions)
    for override in overrides:
        label = f"--set {override}"
        name, equals, written = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"`{label}` is not understood", hint="write --set key.path=value")
        if keys == [EXTENDS]:
            hint = "Write a file that extends the other one, and run that."
            raise UsageError(f"`{label}`: works in YAML files only", hint=hint)
        pointer = _put(document, keys, _override_value(written.strip(), label), label)
        positions = {at: p for at, p in positions.items() if at[: len(pointer)] != pointer}
        for length in range(1, len(pointer) + 1):
            positions.setdefault(pointer[:length], label)
    return LocatedYaml(located.path, document, positions)


def _override_value(written: str, label: str) -> Any:
    """Read the right side of `--set`; text that only looks like YAML stays what was typed."""
    if written.split(maxsplit=1)[:1] == ["!file"]:
        hint = "Write the text itself."
        raise UsageError(f"`{label}`: `!file` works in YAML files only", hint=hint)
    if written.startswith(_NOT_MEANT):
        return written
    reader = NodeReader(label, takes_files=False)
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
        first = reader.problems[0]
        raise UsageError(f"`{label}`: {first.message}", hint=first.hint or QUOTE_IT)
    return value


def _put(document: dict[str, Any], keys: list[str], value: Any, label: str) -> Pointer:
    """Set one value in place, creating mappings on the way; return where it was put."""
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
