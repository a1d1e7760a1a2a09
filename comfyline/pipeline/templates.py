"""Templates in a pipeline's values: sandboxed Jinja2 that keeps types and names its mistakes.

A value that is one `{{ … }}` and nothing else keeps the type of what stands inside; other text
becomes text. Jinja2's own sandbox keeps Python and files out. Here nothing is random as well, for a
prompt that differs each time would be paid for each time, and a rendering has a budget: a few signs
make neither gigabytes nor a loop of hours.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    Undefined,
    UndefinedError,
    nodes,
    pass_environment,
)
from jinja2.environment import TemplateExpression
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from comfyline.errors import did_you_mean
from comfyline.job import Pointer
from comfyline.yaml.file import Mistake

_HINT = "\n"
"""Between a message and its hint, on their way through one of Jinja2's exceptions."""
_NO_SUCH = re.compile(r"No (filter|test) named '(.*?)'")
_BUDGET = 1_000_000
_WIDEST = 100
"""How far a text may be filled up or indented, and into how many parts a list may be cut."""
_LARGEST = 10**300
_LEFT_OUT = {"attr", "pprint", "random", "striptags", "translate", "urlize", "wordwrap", "xmlattr"}
"""Filters and methods that are random, or of more work than their length tells."""
_FILLING = {"batch", "center", "indent", "round", "slice", "tojson"}
"""Filters, and methods of texts, that make much of a number."""
_FILLING |= {"expandtabs", "ljust", "rjust", "to_bytes", "zfill"}
_TOO_WIDE = re.compile(r"%(\(\w*\))?[^a-zA-Z%]*(\*|\d{3})|\{[^{}]*:[^{}]*(\{|\d{3})")
"""A format that fills up, by `%` or in braces, to a width of three digits or one that is given."""
_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_CALLING_ITSELF = (nodes.Macro, nodes.CallBlock, nodes.Block)
_PASSES, _NEW = "passes of a loop", "a list or a mapping"
"""The filters around what a loop goes through, and what a template makes; none can name them."""

_left: ContextVar[int] = ContextVar("comfyline_template_budget", default=_BUDGET)
"""What is left of the budget of the rendering that is under way."""


def render(value: Any, scope: Mapping[str, Any]) -> tuple[Any, list[Mistake]]:
    """Render every text in a value; return all mistakes, and None for what has one."""
    mistakes: list[Mistake] = []
    return _rendered(value, scope, (), mistakes), mistakes


def render_text(text: str, scope: Mapping[str, Any]) -> tuple[str, list[Mistake]]:
    """Render a text that has to stay text, such as a folder or a file name."""
    value, mistakes = render(text, scope)
    if mistakes:
        return "", mistakes
    try:
        return str(_to_text(value)), []
    except SecurityError as error:
        return "", [Mistake((), *explain(error))]


def explain(error: TemplateError) -> tuple[str, str]:
    """Return what Jinja2 says about a template, as a message and a hint."""
    said = (error.message or "").rstrip(".")
    if isinstance(error, UndefinedError | SecurityError):
        message, _, hint = said.partition(_HINT)
        return message, hint
    if match := _NO_SUCH.search(said):
        environment = template_environment()
        known = environment.filters if match[1] == "filter" else environment.tests
        return f"there is no {match[1]} `{match[2]}` in templates", did_you_mean(match[2], [*known])
    line = getattr(error, "lineno", 1) or 1
    return f"invalid template: {said}" + (f" (its line {line})" if line > 1 else ""), ""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return the hint for a name that does not exist: the nearest one, or all there are."""
    known = list(choices)
    return did_you_mean(word, known) or ("there are: " + ", ".join(known) if known else "")


@lru_cache(maxsize=1)
def template_environment() -> "TemplateSandbox":
    """Return the one environment that all templates are compiled in."""
    return TemplateSandbox()


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
    value: Any, scope: Mapping[str, Any], pointer: Pointer, mistakes: list[Mistake]
) -> Any:
    if isinstance(value, str):
        try:
            return _rendered_text(value, scope)
        except TemplateError as error:
            mistakes.append(Mistake(pointer, *explain(error)))
        except Exception as error:  # noqa: BLE001 — an expression may raise whatever Python does
            mistakes.append(Mistake(pointer, f"the template fails: {error}"))
        return None
    if isinstance(value, dict):
        return {k: _rendered(v, scope, (*pointer, k), mistakes) for k, v in value.items()}
    if isinstance(value, list):
        return [_rendered(v, scope, (*pointer, i), mistakes) for i, v in enumerate(value)]
    return value


def _rendered_text(text: str, scope: Mapping[str, Any]) -> Any:
    _left.set(_BUDGET)
    compiled = compile_text(text)
    if compiled is None:
        return text
    return compiled.render(scope) if isinstance(compiled, Template) else _plain(compiled(scope))


def _plain(value: Any) -> Any:
    """Return what an expression gives as JSON can carry it."""
    match value:
        case Undefined() | str():
            # An undefined value raises here, and `Markup` becomes ordinary text.
            return str.__str__(value) if isinstance(value, str) else str(value)
        case float() if not math.isfinite(value):
            raise SecurityError(f"the template returns {value}, which is not a number")
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(key): _plain(entry) for key, entry in value.items()}
        case list() | tuple() | range() | Iterator():
            return [_plain(entry) for entry in _passes(value, 1)]
        case _:
            raise _a_function()


def _to_text(value: Any) -> Any:
    """Return what an expression gives as it stands in the middle of a text."""
    match value:
        case Undefined() | str():
            return _paid(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _paid(str(value))
        case None:
            hint = "give it a value, or write {{ … | default('', true) }}"
            raise SecurityError(f"a null value in the middle of a text{_HINT}{hint}")
        case list() | tuple() | Iterator():
            raise SecurityError(f"a list in the middle of a text{_HINT}| join(', ') joins it")
        case Mapping():
            raise SecurityError(f"a mapping in the middle of a text{_HINT}name a field of it")
        case _:
            raise _a_function()


def _a_function() -> SecurityError:
    message = "the template returns a function, not a value"
    return SecurityError(f"{message}{_HINT}add parentheses to call it: ()")


class NamedUndefined(StrictUndefined):
    """An undefined name that says which names there are."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, of = str(self._undefined_name), self._undefined_obj
        if self._undefined_hint:
            return str(self._undefined_hint)
        if isinstance(of, Mapping):
            return f"there is no field `{name}`{_HINT}{suggest(name, [str(key) for key in of])}"
        if isinstance(of, list | tuple):
            has = f"it has {len(of)}, counted from 0" if of else "it is empty"
            return f"the list has no entry {name}{_HINT}{has}"
        return f"`{name}` is not defined"


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The sandbox, in which the fields of a mapping are all that a dot can reach."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=NamedUndefined, finalize=_to_text, keep_trailing_newline=True)
        self.globals = {"range": self.globals["range"]}
        kept = {name: each for name, each in self.filters.items() if name not in _LEFT_OUT}
        self.filters = {name: _paying(name, each) for name, each in kept.items()}
        self.filters |= {"join": _join, _PASSES: _passes, _NEW: _new}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        if any(source.find_all(_LOADING)):
            raise SecurityError("a template cannot load another file")
        if any(source.find_all(_CALLING_ITSELF)):
            raise SecurityError("a template has no macros and no blocks")
        if any(loop.recursive for loop in source.find_all(nodes.For)):
            raise SecurityError("a loop in a template cannot be recursive")
        _PayingNodes(self).visit(source)
        return super()._generate(source, *args, **kwargs)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Return one dict: the chain that Jinja2 makes takes longer to copy than most to render."""
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a field even when its name is that of a dict's method, such as `items`."""
        if isinstance(obj, Mapping):
            return self.getitem(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a field, and nothing else of a mapping."""
        if isinstance(obj, Mapping):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as Jinja2 has it
        """Call `range` or a method of a value."""
        # Jinja2 wraps a text's `format` in a function of its own.
        method = getattr(__obj, "__wrapped__", __obj)
        if isinstance(method, BuiltinMethodType | MethodType):
            of, given = method.__self__, (*args, *kwargs.values())
            if method.__name__ in _LEFT_OUT:
                raise SecurityError(f"`{method.__name__}` is not there in templates")
            if method.__name__ == "join" and isinstance(of, str):
                return _joined(args[0] if args else (), of)
            _pay_before(method.__name__, of, given)
        return _paid(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply numbers, and only those; put texts and lists together, and fill in."""
        are_numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (operator == "*" and not are_numbers):
            raise SecurityError(f"`{operator}` is for multiplying numbers only")
        if operator == "%" and isinstance(left, str):
            _pay_before("format", left, right if isinstance(right, tuple) else (right,))
        result = _paid(super().call_binop(context, operator, left, right))
        if are_numbers and abs(result) > _LARGEST:
            raise SecurityError("the number becomes too large")
        return result


class _PayingNodes(NodeTransformer):
    """Put the filters that pay around what loops go through, what `~` joins, and what is new."""

    def __init__(self, environment: TemplateSandbox) -> None:
        self._environment = environment

    def visit_For(self, loop: nodes.For) -> nodes.Node:  # noqa: N802  # as Jinja2 has it
        """Pay for each pass, and for the text that stands in it."""
        text = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
        self.generic_visit(loop)
        loop.iter = self._filter(_PASSES, loop.iter, nodes.Const(1 + text))
        return loop

    def visit_Concat(self, concat: nodes.Concat) -> nodes.Node:  # noqa: N802  # as Jinja2 has it
        """Pay for the text that is made."""
        self.generic_visit(concat)
        return self._filter("join", nodes.List(concat.nodes))

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Visit all in a node, and pay for the list or mapping that it makes."""
        node = super().generic_visit(node, *args, **kwargs)
        match node:
            case nodes.List() | nodes.Tuple(ctx="load") | nodes.Dict():
                return self._filter(_NEW, node)
        return node

    def _filter(self, name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        paid = nodes.Filter(value, name, list(args), [], None, None)
        paid.set_environment(self._environment).set_lineno(value.lineno or 1)
        return paid


def _spend(units: int) -> None:
    """Pay for work. Raises `SecurityError` when there is too much of it."""
    left = _left.get() - units
    if left < 0:
        raise SecurityError(
            f"the template produces too much: more than {_BUDGET:,} characters, entries or passes"
            f" of loops{_HINT}make the text smaller, or its parts elsewhere"
        )
    _left.set(left)


def _paid(value: Any) -> Any:
    _spend(1 + _length(value))
    return value


def _passes(values: Iterable[Any], weight: int) -> Iterator[Any]:
    for value in values:
        _spend(weight)
        yield value


def _new(value: Any) -> Any:
    """Pay for a list or a mapping with all that is in it.

    Else one of itself twice, again and again, would be without end where it is written out.
    """
    left = [value]
    while left:
        one = left.pop()
        _spend(1)
        if isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, list | tuple):
            left.extend(one)
    return value


@pass_environment
def _join(
    environment: TemplateSandbox, value: Iterable[Any], d: Any = "", attribute: Any = None
) -> str:
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return _joined(parts, str(d))


def _joined(values: Iterable[Any], between: str) -> str:
    texts: list[str] = []
    for value in values:
        texts.append(str(value))
        _spend(len(texts[-1]) + len(between) + 1)
    return between.join(texts)


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter of Jinja2's so that it pays for what it makes."""
    # Jinja2 gives some filters an argument before the value.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        _pay_before(name, args[first], (*args[first + 1 :], *kwargs.values()))
        return _paid(function(*args, **kwargs))

    return paying


def _pay_before(name: str, of: Any, given: Sequence[Any]) -> None:
    """Pay before a filter or method makes much of little; refuse widths that nobody needs."""
    if name in _FILLING and any(_width(one) > _WIDEST for one in given):
        raise SecurityError(f"`{name}` takes at most {_WIDEST}")
    if name == "replace":
        old, new = (str(one) for one in (*given, "", "")[:2])
        _spend(str(of).count(old) * len(new))
    if name in {"format", "format_map"}:
        text = str(of)
        if _TOO_WIDE.search(text):
            raise SecurityError(f"a format fills up to {_WIDEST} characters at most")
        longest = max((len(str(one)) for one in given), default=0)
        _spend((text.count("%") + text.count("{")) * (_WIDEST + longest))


def _width(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else _length(value)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict | range) else 0
