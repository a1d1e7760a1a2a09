"""Build plain Python values out of YAML nodes, with the place and the mistakes of each.

YAML 1.2 whatever a document declares, so `1:1`, `yes` and `2026-01-31` stay text. The values are
built from PyYAML's node graph, because only nodes carry a position for every value, also in
flow style, behind an anchor and through a merge. The one tag that means something is `!file`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
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
            message = f"an invisible line break (U+{ord(unseen[0]):04x})"
            place = place_in(self.name, text, unseen.start())
            raise InputInvalid([Problem(place, message, "remove it")])
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
        said = ": ".join(part for part in (error.context, error.problem) if part)
        hint = _syntax_hint(said, text.splitlines()[line : line + 1])
        return Problem(f"{self.name}:{line + 1}:{column + 1}", f"not valid YAML: {said}", hint)

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
        lines: dict[str, int] = {}
        for key_node, value_node, is_own in self._pairs(node):
            key = str(key_node.value)
            if key not in mapping:
                self._check_text(key_node)
                lines[key] = key_node.start_mark.line + 1
                self.positions[*pointer, key] = self.place(key_node)
                mapping[key] = self.build(value_node, (*pointer, key))
            elif is_own:
                first = f"line {lines[key]}"
                self.report(key_node, f"duplicate key `{key}`; the first one is on {first}")
        return mapping

    def _pairs(self, node: Node, *, is_own: bool = True) -> Iterator[tuple[ScalarNode, Node, bool]]:
        """Yield what a mapping says itself, then what it takes over by `<<`, the nearest first."""
        merges = [(key, value) for key, value in node.value if key.tag == _TAG + "merge"]
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.tag != _TAG + "merge":
                yield key, value, is_own
            elif not isinstance(key, ScalarNode):
                self.report(key, "a key should be text, not a list or a mapping", QUOTE_IT)
        for key, value in merges:
            for parent in value.value if isinstance(value, SequenceNode) else [value]:
                if not isinstance(parent, MappingNode) or id(parent) in self._open:
                    self.report(key, "`<<` takes a mapping, or a list of mappings")
                    continue
                self._open.add(id(parent))
                yield from self._pairs(parent, is_own=False)
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
    hint = "name a file in the working directory, such as prompts/office.md"
    if not written.strip() or "{{" in written or "{%" in written:
        raise OddScalar(f"`!file` takes the plain path of a text file, not {written!r}", hint)
    try:
        path = Path(written).resolve()
        if not path.is_relative_to(Path.cwd().resolve()):
            raise OddScalar(f"{written} lies outside of the working directory", hint)
        if not path.exists():
            raise OddScalar(f"there is no file {written}", nearest_file(Path(written)))
        if not path.is_file():
            raise OddScalar(f"{written} is not a file", hint)
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a link to itself
        reason = getattr(error, "strerror", None) or str(error)
        raise OddScalar(f"{written!r} cannot be read: {reason}", hint) from None
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


def nearest_file(path: Path) -> str:
    """Return the hint for a file that is not there: the nearest one beside it, if any."""
    try:
        return did_you_mean(path.name, sorted(one.name for one in path.parent.iterdir()))
    except FileNotFoundError:
        return f"there is no folder {path.parent}"
    except (OSError, ValueError):
        return ""
