"""Build plain Python values out of YAML nodes, with the place and the mistakes of each.

YAML 1.2 whatever a document declares, so `1:1`, `yes` and `2026-01-31` stay text. The values are
built from PyYAML's node graph, because only nodes carry a position for every value, also in
flow style, behind an anchor and through a merge. The one tag that means something is `!file`.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import yaml
from yaml import MappingNode, MarkedYAMLError, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.yaml.scalars import OddScalar, core_value

_TAG = "tag:yaml.org,2002:"
# The tag of a plain scalar; no document can write it.
_PLAIN = ""
_SCALARS = {_PLAIN} | {
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}
# Anchors can multiply: a page of text must not become gigabytes.
_MOST_VALUES = 200_000
_DEEPEST = 50
_FILE = "!file"
_LARGEST_FILE = 2**20
# Line breaks to PyYAML, as in YAML 1.1, and none to an editor: every later line would be off.
_UNSEEN_BREAK = re.compile("[\x85\u2028\u2029]")
_ANCHOR_TWICE = re.compile(r"found duplicate anchor '(.+)'; first occurrence")
QUOTE_IT = (
    'put quotes around text that contains {{ … }}, ": ", # or begins with a special character'
)


def place_in(name: str, text: str, offset: int) -> str:
    """Return the place of a character of a text as `name:line:column`, counted from 1."""
    before = text[:offset].split("\n")
    return f"{name}:{len(before)}:{len(before[-1]) + 1}"


class _Loader(yaml.BaseLoader):
    """Tell plain scalars and merge keys from the rest; what a scalar means is not PyYAML's."""


_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), ["<"])
_Loader.add_implicit_resolver(_PLAIN, re.compile(""), None)


class NodeReader:
    """Build plain values out of YAML nodes, and collect positions and mistakes meanwhile.

    `flawed` holds where a value is not what was meant, so that nothing else is to be said of it.
    With `takes_files`, `!file` stands for the text of a file.
    """

    def __init__(self, name: str, *, takes_files: bool = True) -> None:
        self.name = name
        self._takes_files = takes_files
        self.positions: dict[Pointer, str] = {}
        self.problems: list[Problem] = []
        self.flawed: set[Pointer] = set()
        self._open: set[int] = set()
        self._values = 0
        self._texts: dict[str, str] = {}

    def compose(self, text: str) -> Node | None:
        """Parse the text into nodes; None when it holds nothing."""
        if unseen := _UNSEEN_BREAK.search(text):
            code = f"{ord(unseen[0]):04x}"
            place = place_in(self.name, text, unseen.start())
            hint = f'remove it, or write "\\u{code}" in quotes'
            raise InputInvalid([Problem(place, f"an invisible line break (U+{code})", hint)])
        try:
            return yaml.compose(text, Loader=_Loader)
        except MarkedYAMLError as error:
            problem = self._syntax_problem(error, text)
        except ReaderError as error:
            place = place_in(self.name, text, error.position)
            problem = Problem(place, "not valid YAML: a control character")
        except RecursionError:
            problem = Problem(f"{self.name}:1:1", "the YAML is nested too deeply")
        except (ValueError, OverflowError) as error:  # "\U00110000", a version of 5,000 digits
            said = " ".join(str(error).split())
            problem = Problem(f"{self.name}:1:1", f"not valid YAML: {said}")
        raise InputInvalid([problem])

    def _syntax_problem(self, error: MarkedYAMLError, text: str) -> Problem:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        where = f"{self.name}:{line + 1}:{column + 1}"
        said = " ".join(str(error.problem or error.context).split())
        if error.context_mark and (anchor := _ANCHOR_TWICE.match(error.context or "")):
            first = f"line {error.context_mark.line + 1}"
            message = f"the anchor `{anchor[1]}` is defined twice; the first one is on {first}"
            return Problem(where, message, "give one of them another name")
        hint = _syntax_hint(said, text.splitlines()[line : line + 1])
        return Problem(where, f"not valid YAML: {said}", hint)

    def place(self, node: Node) -> str:
        """Return where a node begins."""
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def report(self, node: Node, message: str, hint: str = "") -> None:
        """Note one mistake; reading goes on, so that all are found."""
        problem = Problem(self.place(node), message, hint)
        # What stands behind an anchor is read at each of its uses, and said once.
        if problem not in self.problems:
            self.problems.append(problem)

    def build(self, node: Node, pointer: Pointer) -> Any:
        """Return the plain value of a node; what stands below `pointer` gets its position."""
        self._values += 1
        if isinstance(node, ScalarNode):
            return self._scalar(node, pointer)
        if refusal := self._refusal(node, pointer):
            self.report(node, refusal)
            self.flawed.add(pointer)
            return None
        self._open.add(id(node))
        is_mapping = isinstance(node, MappingNode)
        value = self._mapping(node, pointer) if is_mapping else self._sequence(node, pointer)
        self._open.discard(id(node))
        return value

    def _refusal(self, node: Node, pointer: Pointer) -> str:
        """Say why a list or mapping is not read, if it is not."""
        if node.tag == _FILE:
            return "`!file` takes the name of one text file"
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return f"the YAML tag {node.tag} is not allowed"
        if id(node) in self._open:
            return "the value contains itself through an anchor"
        if len(pointer) > _DEEPEST:
            return "the YAML is nested too deeply"
        if self._values > _MOST_VALUES:
            return "the document grows too large through its anchors"
        return ""

    def _sequence(self, node: Node, pointer: Pointer) -> list[Any]:
        entries = []
        for index, entry in enumerate(node.value):
            self.positions[*pointer, index] = self.place(entry)
            entries.append(self.build(entry, (*pointer, index)))
        return entries

    def _mapping(self, node: Node, pointer: Pointer) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        seen: dict[str, Node] = {}
        for key_node, value_node in self._entries(node):
            if not isinstance(key_node, ScalarNode):
                self.report(key_node, "a key should be text, not a list or a mapping", QUOTE_IT)
                continue
            key = str(key_node.value)
            if key in seen:
                first = f"line {seen[key].start_mark.line + 1}"
                self.report(key_node, f"duplicate key `{key}`; the first one is on {first}")
                continue
            seen[key] = key_node
            self._check_text(key_node)
            self.positions[*pointer, key] = self.place(key_node)
            mapping[key] = self.build(value_node, (*pointer, key))
        for key_node, value_node in self._merged(node):
            key = str(key_node.value)
            if key not in mapping:
                self.positions[*pointer, key] = self.place(key_node)
                mapping[key] = self.build(value_node, (*pointer, key))
        return mapping

    def _entries(self, node: Node) -> Iterator[tuple[Node, Node]]:
        """Yield what a mapping says itself."""
        return ((key, value) for key, value in node.value if key.tag != _TAG + "merge")

    def _merged(self, node: Node) -> Iterator[tuple[Node, Node]]:
        """Yield what a mapping takes over by `<<`, the nearest first."""
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                continue
            parents = value.value if isinstance(value, SequenceNode) else [value]
            for parent in parents:
                if not isinstance(parent, MappingNode) or id(parent) in self._open:
                    self.report(key, "`<<` takes a mapping, or a list of mappings")
                    continue
                self._open.add(id(parent))
                for entry in self._entries(parent):
                    if isinstance(entry[0], ScalarNode):
                        yield entry
                yield from self._merged(parent)
                self._open.discard(id(parent))

    def _check_text(self, node: ScalarNode) -> bool:
        """Tell whether a scalar is text or stands for a value; what is neither is a mistake."""
        if any("\ud800" <= character <= "\udfff" for character in str(node.value)):
            self.report(node, "the text contains half a character (a lone surrogate)")
        elif node.tag not in _SCALARS:
            self.report(node, f"the YAML tag {node.tag} is not allowed")
        else:
            return True
        return False

    def _scalar(self, node: ScalarNode, pointer: Pointer) -> Any:
        text = str(node.value)
        try:
            if node.tag == _FILE:
                return self._text_of(text)
            if not self._check_text(node):
                self.flawed.add(pointer)
                return text
            return text if node.tag == _TAG + "str" else core_value(text)
        except OddScalar as odd:
            self.report(node, str(odd), odd.hint)
            self.flawed.add(pointer)
            return text

    def _text_of(self, file: str) -> str:
        """Return what `!file` stands for; behind an anchor it is read from the disk once."""
        if not self._takes_files:
            raise OddScalar("`!file` works in YAML files only; write the text itself here")
        if file not in self._texts:
            self._texts[file] = _read_text(file)
        return self._texts[file]


def _syntax_hint(said: str, line: list[str]) -> str:
    if r"'\t'" in said:
        return "indent with spaces, not with tabs"
    if "'?'" in said:
        return "put quotes around text that contains ? between brackets"
    special = ("mapping values are not allowed", "cannot start any token", "undefined alias")
    return QUOTE_IT if any(word in said for word in special) or "{{" in "".join(line) else ""


def _read_text(written: str) -> str:
    """Return the text of a file, named relative to the working directory.

    Line ends become the plain ones and those at the end are cut, so that no editor's habit makes
    another job of the same prompt. Raises `OddScalar` for what is no UTF-8 text of up to 1 MB, and
    for a file that lies, or that a link puts, outside of the working directory.
    """
    path = _in_working_directory(written)
    try:
        if not path.is_file():
            raise _no_file(written, path)
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise OddScalar(f"{written} cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST_FILE:
        raise OddScalar(f"{written} is larger than 1 MB", "`!file` is for texts, such as prompts")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        hint = "save the file in UTF-8"
        raise OddScalar(f"{written} is not UTF-8 text (its line {line})", hint) from None
    if any(character < " " and character not in "\t\r\n" for character in text):
        raise OddScalar(f"{written} contains control characters: it is not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def _in_working_directory(written: str) -> Path:
    """Return the file that is meant, with all links followed."""
    hint = "name a file in the working directory, such as prompts/office.md"
    if not written.strip():
        raise OddScalar("`!file` does not name a file", hint)
    if "{{" in written or "{%" in written:
        raise OddScalar("`!file` takes a plain path; templates are for the text in the file", hint)
    named = PurePath(written)
    if named.is_absolute() or written.startswith("~") or ".." in named.parts:
        raise OddScalar(f"{written} lies outside of the working directory", hint)
    try:
        root, path = Path.cwd().resolve(), Path(written).resolve()
    except (OSError, ValueError, RuntimeError):  # a zero byte, a link to itself
        raise OddScalar(f"{written!r} is not the name of a file", hint) from None
    if not path.is_relative_to(root):
        raise OddScalar(f"{written} is a link that leads outside of the working directory", hint)
    return path


def _no_file(written: str, path: Path) -> OddScalar:
    if path.is_dir():
        return OddScalar(f"{written} is a folder", "name a file in it")
    if path.exists():
        return OddScalar(f"{written} is not a regular file")
    hint = f"there is no folder {PurePath(written).parent}"
    if path.parent.is_dir():
        beside = [str(PurePath(written).with_name(one.name)) for one in path.parent.iterdir()]
        hint = did_you_mean(written, sorted(beside))
    return OddScalar(f"there is no file {written}", hint)
