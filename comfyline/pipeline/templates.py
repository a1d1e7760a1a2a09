"""Templates in a pipeline's values: sandboxed Jinja2 that keeps types and names its mistakes.

A value that is one `{{ … }}` and nothing else keeps the type of what stands inside; other text
becomes text. Nothing random, nothing of Python and no file can be reached from a template, see
`template_sandbox`: a prompt that differs each time would be paid for each time.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, Undefined, UndefinedError, nodes
from jinja2.environment import TemplateExpression
from jinja2.exceptions import SecurityError

from comfyline.errors import Problem, did_you_mean
from comfyline.job import Pointer
from comfyline.pipeline.template_sandbox import HINT, TemplateSandbox, bounded, spend
from comfyline.yaml.file import LocatedYaml

_NO_SUCH = re.compile(r"No (filter|test) named '(.*?)'")


@dataclass(frozen=True, slots=True)
class TemplateMistake:
    """One value that could not be rendered: where in the value, why, and what to write."""

    pointer: Pointer
    message: str
    hint: str = ""

    def at(self, located: LocatedYaml, parent: Pointer) -> Problem:
        """Return the mistake as a problem of the document that has the value at `parent`."""
        return Problem(located.where((*parent, *self.pointer)), self.message, self.hint)


class _WrongKind(Exception):
    """A value that has no place in a text, or in JSON."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def render(value: Any, scope: Mapping[str, Any]) -> tuple[Any, list[TemplateMistake]]:
    """Render every text in a value; return all mistakes, and None for what has one."""
    mistakes: list[TemplateMistake] = []
    return _rendered(value, scope, (), mistakes), mistakes


def render_text(text: str, scope: Mapping[str, Any]) -> tuple[str, list[TemplateMistake]]:
    """Render a text that has to stay text, such as a folder or a file name."""
    value, mistakes = render(text, scope)
    if mistakes:
        return "", mistakes
    try:
        return str(_to_text(value)), []
    except _WrongKind as error:
        return "", [TemplateMistake((), str(error), error.hint)]


def explain(error: TemplateError) -> tuple[str, str]:
    """Return what Jinja2 says about a template, as a message and a hint."""
    said = (error.message or "").rstrip(".")
    if isinstance(error, UndefinedError | SecurityError):
        message, _, hint = said.partition(HINT)
        return message, hint
    if match := _NO_SUCH.search(said):
        environment = template_environment()
        known = environment.filters if match[1] == "filter" else environment.tests
        return f"there is no {match[1]} `{match[2]}` in templates", did_you_mean(match[2], [*known])
    line = getattr(error, "lineno", 1) or 1
    return f"invalid template: {said}" + (f" (its line {line})" if line > 1 else ""), ""


@lru_cache(maxsize=1)
def template_environment() -> TemplateSandbox:
    """Return the one environment that all templates are compiled in."""
    return TemplateSandbox(_to_text)


def is_template(text: str) -> bool:
    """Tell whether anything is to be rendered in a text."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


@lru_cache(maxsize=4096)
def compile_text(text: str) -> Template | TemplateExpression | None:
    """Compile a text to an expression or a template; None when nothing is to be rendered in it."""
    if not is_template(text):
        return None
    environment = template_environment()
    stripped = text.strip()
    match environment.parse(stripped).body:
        case [nodes.Output(nodes=[part])] if not isinstance(part, nodes.TemplateData):
            if stripped.startswith("{{") and stripped.endswith("}}"):
                inner = stripped[2:-2].strip("-+")
                return environment.compile_expression(inner, undefined_to_none=False)
    return environment.from_string(text)


def _rendered(
    value: Any, scope: Mapping[str, Any], pointer: Pointer, mistakes: list[TemplateMistake]
) -> Any:
    if isinstance(value, str):
        try:
            return _rendered_text(value, scope)
        except _WrongKind as error:
            mistakes.append(TemplateMistake(pointer, str(error), error.hint))
        except TemplateError as error:
            mistakes.append(TemplateMistake(pointer, *explain(error)))
        except Exception as error:  # noqa: BLE001 — an expression may raise whatever Python does
            mistakes.append(TemplateMistake(pointer, f"the template fails: {error}"))
        return None
    if isinstance(value, dict):
        return {k: _rendered(v, scope, (*pointer, k), mistakes) for k, v in value.items()}
    if isinstance(value, list):
        return [_rendered(v, scope, (*pointer, i), mistakes) for i, v in enumerate(value)]
    return value


def _rendered_text(text: str, scope: Mapping[str, Any]) -> Any:
    compiled = compile_text(text)
    if compiled is None:
        return text
    with bounded():
        if isinstance(compiled, Template):
            return compiled.render(scope)
        return _plain(compiled(scope))


def _plain(value: Any) -> Any:
    """Return what an expression gives as JSON can carry it."""
    match value:
        case Undefined() | str():
            # An undefined value raises here, and `Markup` becomes ordinary text.
            return str.__str__(value) if isinstance(value, str) else str(value)
        case float() if not math.isfinite(value):
            raise _WrongKind(f"the template returns {value}, which is not a number")
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(key): _plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case range() | Iterator():
            entries = []
            for entry in value:
                spend(1)
                entries.append(_plain(entry))
            return entries
        case _:
            raise _a_function()


def _to_text(value: Any) -> Any:
    """Return what an expression gives as it stands in the middle of a text."""
    match value:
        case Undefined() | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case None:
            hint = "give it a value, or write {{ … | default('', true) }}"
            raise _WrongKind("a null value in the middle of a text", hint)
        case list() | tuple() | Iterator():
            hint = "| join(', ') joins it"
            raise _WrongKind("a list in the middle of a text", hint)
        case Mapping():
            hint = "name a field of it"
            raise _WrongKind("a mapping in the middle of a text", hint)
        case _:
            raise _a_function()


def _a_function() -> _WrongKind:
    message = "the template returns a function, not a value"
    return _WrongKind(message, "add parentheses to call it: ()")
