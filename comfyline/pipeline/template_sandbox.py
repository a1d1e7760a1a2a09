"""The sandbox that templates run in: no Python, no files, nothing random, and bounded work.

Jinja2's own sandbox keeps Python out. What it does not bound is paid for here out of one budget a
rendering: characters, entries of lists and passes of loops, before they are made where a few signs
would make them large. Macros and blocks, which no prompt needs, are not there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from comfyline.errors import did_you_mean

HINT = "\n"
"""Between a message and its hint, on their way through one of Jinja2's exceptions."""

_BUDGET = 1_000_000
_WIDEST = 100
"""How far a text may be filled up or indented, and into how many parts a list may be cut."""
_MOST_BITS = 4096
_NUMBER = int | float
_LEFT_OUT = {"attr", "pprint", "random", "striptags", "translate", "urlize", "wordwrap", "xmlattr"}
"""Filters and methods that are random, or of more work than their length tells."""
_FILLING = {"batch", "center", "indent", "round", "slice", "tojson"}
"""Filters, and methods of texts, that make much of a number."""
_FILLING |= {"expandtabs", "ljust", "rjust", "to_bytes", "zfill"}
_TOO_WIDE = re.compile(r"%(\(\w*\))?[^a-zA-Z%]*(\*|\d{3})|\{[^{}]*:[^{}]*(\{|\d{3})")
"""A format that fills up, by `%` or in braces, to a width of three digits or one that is given."""
# Names that no template can write.
_PASSES, _NEW = "passes of a loop", "a list or a mapping"

_left: ContextVar[list[int] | None] = ContextVar("comfyline_template_budget", default=None)
"""What is left of the budget of a rendering, as a list of one number."""


@contextmanager
def bounded() -> Iterator[None]:
    """Give a budget to what is rendered inside the block."""
    token = _left.set([_BUDGET])
    try:
        yield
    finally:
        _left.reset(token)


def spend(units: int) -> None:
    """Pay for work. Raises `SecurityError` when there is too much of it."""
    left = _left.get() or [_BUDGET]
    left[0] -= units
    if left[0] < 0:
        raise SecurityError(
            f"the template produces too much: more than {_BUDGET:,} characters, entries or passes"
            f" of loops{HINT}make the text smaller, or its parts elsewhere"
        )


class NamedUndefined(StrictUndefined):
    """An undefined name that says which names there are."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, of = str(self._undefined_name), self._undefined_obj
        if self._undefined_hint:
            return str(self._undefined_hint)
        if isinstance(of, Mapping):
            return f"there is no field `{name}`{HINT}{suggest(name, [str(key) for key in of])}"
        if isinstance(of, list | tuple):
            has = f"it has {len(of)}, counted from 0" if of else "it is empty"
            return f"the list has no entry {name}{HINT}{has}"
        return f"`{name}` is not defined"


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return the hint for a name that does not exist: the nearest one, or all there are."""
    known = list(choices)
    return did_you_mean(word, known) or ("there are: " + ", ".join(known) if known else "")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The sandbox, in which the fields of a mapping are all that a dot can reach.

    `finalize` gives what an expression is in the middle of a text.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, finalize: Callable[[Any], Any]) -> None:
        def paid(value: Any) -> Any:
            text = finalize(value)
            spend(_size(text))
            return text

        super().__init__(undefined=NamedUndefined, finalize=paid, keep_trailing_newline=True)
        self.globals = {"range": self.globals["range"]}
        kept = {name: each for name, each in self.filters.items() if name not in _LEFT_OUT}
        self.filters = {name: _paying(name, each) for name, each in kept.items()}
        self.filters |= {"join": _join, _PASSES: _passes, _NEW: _new}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _refuse(source)
        _Paying(self).visit(source)
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
            of = method.__self__
            if isinstance(of, str) and method.__name__ == "join":
                return _joined(args[0] if args else (), of)
            if method.__name__ in _LEFT_OUT:
                raise SecurityError(f"`{method.__name__}` is not there in templates")
            _pay_before(method.__name__, of, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        spend(_size(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply numbers, and only those; put texts and lists together, and fill in."""
        match operator:
            case "%" if isinstance(left, str):
                _pay_before("format", left, right if isinstance(right, tuple) else (right,), {})
            case "+":
                _new([left, right]) if isinstance(left, list | tuple) else spend(_size(left))
                spend(_size(right))
            case "*" if isinstance(left, _NUMBER) and isinstance(right, _NUMBER):
                if _bits(left) + _bits(right) > _MOST_BITS:
                    raise SecurityError("the number becomes too large")
            case "*" | "**":
                raise SecurityError(f"`{operator}` is for multiplying numbers only")
        return super().call_binop(context, operator, left, right)


class _Paying(NodeTransformer):
    """Put what pays for it around each loop, each `~` and each list that a template makes."""

    def __init__(self, environment: TemplateSandbox) -> None:
        self._environment = environment

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Visit one node and all in it."""
        weight = _weight(node) if isinstance(node, nodes.For) else 0
        node = self.generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For():
                node.iter = self._filter(_PASSES, node.iter, nodes.Const(weight))
            case nodes.Concat():
                return self._filter("join", nodes.List(node.nodes))
            case nodes.List() | nodes.Tuple(ctx="load") | nodes.Dict():
                return self._filter(_NEW, node)
        return node

    def _filter(self, name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        paid = nodes.Filter(value, name, list(args), [], None, None)
        paid.set_environment(self._environment).set_lineno(value.lineno or 1)
        return paid


def _weight(loop: nodes.For) -> int:
    """Tell how much one pass of a loop does: its parts, and the text that stands in it."""
    parts = [inner for part in loop.body for inner in (part, *part.find_all(nodes.Node))]
    return 1 + sum(len(one.data) if isinstance(one, nodes.TemplateData) else 1 for one in parts)


def _refuse(source: nodes.Template) -> None:
    """Raise `SecurityError` for what loads files, and for what may go on without end."""
    if any(source.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
        raise SecurityError("a template cannot load another file")
    if any(source.find_all((nodes.Macro, nodes.CallBlock, nodes.Block))):
        raise SecurityError("a template has no macros and no blocks")
    if any(loop.recursive for loop in source.find_all(nodes.For)):
        raise SecurityError("a loop in a template cannot be recursive")


def _passes(values: Iterable[Any], weight: int) -> Iterator[Any]:
    for value in values:
        spend(weight)
        yield value


def _new(value: Any) -> Any:
    """Pay for a list or a mapping with all that is in it.

    Else one of itself twice, again and again, would be without end where it is written out.
    """
    left = [value]
    while left:
        one = left.pop()
        spend(1)
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
        spend(len(texts[-1]) + len(between) + 1)
    return between.join(texts)


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter of Jinja2's so that it pays for what it makes."""
    # Jinja2 gives some filters an argument before the value.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        _pay_before(name, args[first], args[first + 1 :], kwargs)
        result = function(*args, **kwargs)
        spend(_size(result))
        return result

    return paying


def _pay_before(name: str, of: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Pay before a filter or method makes much of little; refuse what nobody needs."""
    given = (*args, *kwargs.values())
    if name in _FILLING and any(_width(one) > _WIDEST for one in given):
        raise SecurityError(f"`{name}` takes at most {_WIDEST}")
    if name == "replace":
        old, new = (str(one) for one in (*given, "", "")[:2])
        spend(len(str(of)) + str(of).count(old) * len(new))
    if name in {"format", "format_map"}:
        text = str(of)
        if _TOO_WIDE.search(text):
            raise SecurityError(f"a format fills up to {_WIDEST} characters at most")
        fields = text.count("%") + text.count("{")
        spend(fields * (_WIDEST + max((len(str(one)) for one in given), default=0)))


def _width(value: Any) -> int:
    return abs(int(value)) if isinstance(value, _NUMBER) else _size(value) - 1


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _size(value: Any) -> int:
    return 1 + (len(value) if isinstance(value, str | list | tuple | dict | range) else 0)
