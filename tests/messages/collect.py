"""Every sentence that a person can meet, collected from the source: `make messages` prints them."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_WORD = re.compile(r"(?<!\S)[^\W\d_]+(?!\w)")
_LEFT_OUT = ("comfyline/sandbox", "comfyline/ledger/migrations")
_NO_SENTENCE = re.compile(r"(?s)^(\s|<|SELECT|CREATE|PRAGMA|\(\?|%\()|https?://\S+$")


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence with its place; what is only known at run time stands in braces."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@cache
def messages() -> tuple[Message, ...]:
    """Collect every text of at least three words, and the help of the commands."""
    sources = (
        path for room in ("comfyline", "flows", "tasks") for path in (ROOT / room).rglob("*.py")
    )
    return tuple(
        message
        for path in sorted(sources)
        if not path.relative_to(ROOT).as_posix().startswith(_LEFT_OUT)
        for message in _of_file(path)
    )


def _of_file(path: Path) -> Iterator[Message]:
    where = path.relative_to(ROOT)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if where.parts[:2] == ("comfyline", "cli"):
        yield from _help(tree, where)
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent.update(id(part) for part in node.values)
        if id(node) in silent:
            continue
        text = _text(node)
        words = _WORD.findall(text)
        if len(words) > 2 and any(map(str.islower, words)) and not _NO_SENTENCE.match(text):
            yield Message(where, node.lineno, text)  # type: ignore[attr-defined]


def _help(tree: ast.Module, where: Path) -> Iterator[Message]:
    """Yield the docstrings of commands, which are their help; each has an example."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").partition("\n\nParameters\n")[0]
            for paragraph in text.split("\n\n") if "Example:" in text else ():
                yield Message(where, node.lineno, " ".join(paragraph.split()))


def _text(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_part(value) for value in values)
        case _:
            return ""


def _part(value: ast.expr) -> str:
    if isinstance(value, ast.FormattedValue):
        return "{" + ast.unparse(value.value) + "}"
    return str(value.value) if isinstance(value, ast.Constant) else ""


if __name__ == "__main__":
    sys.stdout.writelines(f"{message}\n" for message in messages())
