"""YAML files that know where each value was written, also where a file extends another.

Pipelines and profiles are read here, by the same rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.yaml.nodes import NodeReader, place_in
from comfyline.yaml.scalars import in_words

EXTENDS = "extends"
"""The key of a file that names the file which it goes on from."""


@dataclass(frozen=True, slots=True)
class LocatedYaml:
    """A mapping read from YAML, as plain Python values, and where each of them was written.

    `spelt` holds how a number, true, false or null was written where JSON writes it otherwise.
    """

    path: Path
    data: dict[str, Any]
    positions: Mapping[Pointer, str] = field(default_factory=dict)
    spelt: Mapping[Pointer, str] = field(default_factory=dict)

    def where(self, pointer: Pointer = ()) -> str:
        """The place of a value as `path:line:column`, counted from 1.

        An entry of a mapping is where its key stands, an entry of a list where it begins. What
        was never written, such as a missing key, is where the nearest parent is.
        """
        for length in range(len(pointer), -1, -1):
            if place := self.positions.get(pointer[:length]):
                return place
        return f"{self.path}:1:1"


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
    """Reads a YAML file that is a mapping, merged with what it extends.

    Raises InputInvalid with each mistake of all these files.
    """
    read = read_yaml(path)
    if read.problems or read.located is None:
        raise InputInvalid(read.problems)
    return read.located


def read_yaml(path: Path) -> ReadYaml:
    """The same for who has more to say of a file with mistakes.

    `extends: FILE` goes on from another file, which may go on from a third. Mappings are merged,
    the nearer file winning; a list or a plain value replaces; null takes away what the other has.
    Each value keeps the place at which it was written.
    """
    chain: list[LocatedYaml] = []
    flawed: set[str] = set()
    problems: list[Problem] = []
    opened = [path]
    named_at = ""
    try:
        while len(chain) < len(opened):
            chain.append(_read(opened[-1], named_at, problems, flawed))
            named_at = chain[-1].where((EXTENDS,))
            if following := _extended(chain[-1], opened):
                opened.append(following)
    except InputInvalid as error:
        return ReadYaml(None, (*problems, *error.problems))
    merged = chain.pop()
    while chain:
        merged = _merged(chain.pop(), merged)
    return ReadYaml(merged, tuple(problems), frozenset(flawed))


def _read(path: Path, named_at: str, problems: list[Problem], flawed: set[str]) -> LocatedYaml:
    """One file by itself; adds its mistakes to `problems`, and raises those that end the reading.

    `named_at` is the place at which another file names it.
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
    return LocatedYaml(path, mapping, reader.positions, reader.spelt)


def _text(path: Path, named_at: str) -> str:
    where, subject = (named_at, f"{path}: ") if named_at else (str(path), "")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problem = Problem(where, f"{subject}there is no such file", _near(path))
    except UnicodeDecodeError as error:
        place = place_in(str(path), error.object.decode("latin-1"), error.start)
        problem = Problem(place, "the file is not UTF-8 text", "save the file in UTF-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(where, f"{subject}the file cannot be read: {reason}")
    raise InputInvalid([problem])


def _near(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except (OSError, ValueError):
        return ""
    return did_you_mean(path.name, names)


def _extended(located: LocatedYaml, opened: Sequence[Path]) -> Path | None:
    """The file that a file extends, if any. Raises InputInvalid when it extends itself in the end.

    The key is taken out: it is no part of the document.
    """
    named = located.data.pop(EXTENDS, None)
    if named is None:
        return None
    where = located.where((EXTENDS,))
    hint = "write extends: configs/pipelines/base.yaml, relative to the working directory"
    if not isinstance(named, str) or not named.strip():
        message = f"`{EXTENDS}` should be the path of one file, not {in_words(named)}"
        raise InputInvalid([Problem(where, message, hint)])
    if "{{" in named:
        raise InputInvalid([Problem(where, f"`{EXTENDS}` takes a plain path, no template", hint)])
    following = Path(named)
    same = [path for path in opened if _same_file(path, following)]
    if same:
        circle = [*opened[opened.index(same[0]) :], following]
        way = " → ".join(str(path) for path in circle)
        raise InputInvalid([Problem(where, f"`{EXTENDS}` goes in a circle: {way}")])
    return following


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, ValueError, RuntimeError):  # what cannot be resolved is told when it is read
        return False


def _merged(nearer: LocatedYaml, further: LocatedYaml) -> LocatedYaml:
    """A file on top of the one that it extends; values that are in both are the nearer file's."""
    positions, spelt = dict(further.positions), dict(further.spelt)
    replaced: set[Pointer] = set()
    data = _merged_mapping(nearer.data, further.data, (), replaced)

    def kept(at: Pointer) -> bool:
        return not any(at[:length] in replaced for length in range(1, len(at) + 1))

    positions = {at: place for at, place in positions.items() if kept(at)} | dict(nearer.positions)
    spelt = {at: written for at, written in spelt.items() if kept(at)} | dict(nearer.spelt)
    return LocatedYaml(nearer.path, data, positions, spelt)


def _merged_mapping(
    nearer: dict[str, Any], further: dict[str, Any], pointer: Pointer, replaced: set[Pointer]
) -> dict[str, Any]:
    """The merged values; `replaced` gathers which of the further file's are not among them."""
    merged = dict(further)
    for key, value in nearer.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merged_mapping(value, below, (*pointer, key), replaced)
            continue
        if key in merged:
            replaced.add((*pointer, key))
        if value is None and key in merged:
            del merged[key]
        else:
            merged[key] = value
    return merged
