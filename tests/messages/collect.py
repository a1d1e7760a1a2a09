"""Every sentence that a person can meet, collected from the source: `make messages` prints them."""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comfyline import errors

ROOT = Path(__file__).parents[2]
_ERRORS = {
    name
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, errors.ComfylineError)
}
_SPEAKERS = _ERRORS | {"Problem", "Note", "say", "tell", "warn"}
_HINTS = {"hint", "help", "message"}


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence with its place; what is only known at run time stands in braces."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def messages() -> list[Message]:
    """Collect them from the command line, the flows, the tasks and the rooms, by file and line."""
    sources = [
        path for room in ("comfyline", "flows", "tasks") for path in (ROOT / room).rglob("*.py")
    ]
    found = (message for path in sorted(sources) for message in _of_file(path))
    return [message for message in found if " " in message.text.strip()]


def _of_file(path: Path) -> Iterator[Message]:
    where = path.relative_to(ROOT)
    if where.parts[:2] == ("comfyline", "sandbox"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            spoken = node.args if _name(node.func) in _SPEAKERS else []
            spoken = [*spoken, *(k.value for k in node.keywords if k.arg in _HINTS)]
            for part in spoken:
                for text in _texts(part):
                    yield Message(where, part.lineno, text)
    if where.parts[:2] == ("comfyline", "cli"):
        yield from _helps(tree, where)


def _helps(tree: ast.Module, where: Path) -> Iterator[Message]:
    """Yield the docstrings of commands, which are their help; each has an example."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = (ast.get_docstring(node) or "").partition("Parameters\n---")[0]
            for paragraph in told.strip().split("\n\n") if "Example:" in told else ():
                yield Message(where, node.lineno, " ".join(paragraph.split()))


def _name(called: ast.expr) -> str:
    match called:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield the sentences of an expression: both sides of a choice, the parts of a sum as one."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(_part(value) for value in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            for one in _texts(left):
                yield from (one + other for other in _texts(right))
        case ast.IfExp(body=body, orelse=otherwise):
            yield from _texts(body)
            yield from _texts(otherwise)
        case _:
            return


def _part(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    return "{" + ast.unparse(value.value) + "}" if isinstance(value, ast.FormattedValue) else "{…}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{message}\n" for message in messages())
