"""The sandbox that templates run in: no Python, no files, nothing random, and bounded work.

Whatever can become large is paid for out of one budget before it is made: characters, entries of
lists, passes of loops. So no template takes gigabytes or minutes, whatever it is made of. What
nobody needs for a prompt and what cannot be paid for so (macros, blocks) is not there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import BoundArguments, signature, unwrap
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from comfyline.errors import did_you_mean

HINT = "\n"
"""Between a message and its hint, on their way through one of Jinja2's exceptions."""

_MOST_WORK = 1_000_000
_WIDEST = 1000
"""Digits and blanks that a number or a text may be filled up to by a format."""
_MOST_BITS = 4096
_MOST_INDENT = 16
_NUMBER = int | float
_SLOW = {"attr", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"}
"""Filters that are left out: random, or of more work than their length tells."""
_TEXT_METHODS = {"capitalize", "casefold", "center", "count", "endswith", "find", "index"}
_TEXT_METHODS |= {"isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric"}
_TEXT_METHODS |= {"isspace", "istitle", "isupper", "ljust", "lower", "lstrip", "partition"}
_TEXT_METHODS |= {"removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rsplit"}
_TEXT_METHODS |= {"rpartition", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase"}
_TEXT_METHODS |= {"title", "upper", "zfill"}
_LIST_METHODS = {"count", "index"}
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_DIGITS = re.compile(r"\d+")
# Names that no template can write.
_PASSES, _CONCAT, _MADE = "passes of a loop", "texts put together", "a list or a mapping"


class _Work:
    """What is left of the budget of one rendering."""

    def __init__(self) -> None:
        self.left = _MOST_WORK


_work: ContextVar[_Work | None] = ContextVar("comfyline_template_work", default=None)


@contextmanager
def bounded() -> Iterator[None]:
    """Gives a budget to what is rendered inside the block."""
    token = _work.set(_Work())
    try:
        yield
    finally:
        _work.reset(token)


def spend(units: int) -> None:
    """Pays for work before it is done. Raises `SecurityError` when there is too much of it."""
    work = _work.get() or _Work()
    work.left -= units
    if work.left < 0:
        raise SecurityError(
            f"the template makes too much: more than {_MOST_WORK:,} characters, entries or passes"
            f" of loops{HINT}make the text smaller, or its parts elsewhere"
        )


class NamedUndefined(StrictUndefined):
    """An undefined name that says which names there are."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name = str(self._undefined_name)
        if self._undefined_hint:
            return str(self._undefined_hint)
        if isinstance(self._undefined_obj, Mapping):
            known = [str(key) for key in self._undefined_obj]
            return f"there is no field `{name}`{HINT}{suggest(name, known)}"
        if isinstance(self._undefined_obj, list | tuple):
            size = len(self._undefined_obj)
            has = f"it has {size}, counted from 0" if size else "it is empty"
            return f"the list has no entry {name}{HINT}{has}"
        return f"`{name}` is not defined"


def suggest(word: str, choices: Iterable[str]) -> str:
    """The hint for a name that does not exist: the nearest one, or all there are."""
    known = list(choices)
    listed = "there are: " + ", ".join(known) if known else ""
    return did_you_mean(word, known) or listed


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The sandbox, in which the fields of a mapping are all that a dot can reach.

    `finalize` gives what an expression is in the middle of a text.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, finalize: Callable[[Any], Any]) -> None:
        def paid(value: Any) -> Any:
            text = finalize(value)
            if isinstance(text, str):
                spend(len(text))
            return text

        super().__init__(undefined=NamedUndefined, finalize=paid, keep_trailing_newline=True)
        self.globals = {"range": self.globals["range"]}
        self.filters = {
            name: _paid(name, function)
            for name, function in self.filters.items()
            if name not in _SLOW
        } | {
            "format": _percent,
            "join": _join,
            _PASSES: _passes,
            _CONCAT: _concatenated,
            _MADE: _made,
        }

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _refuse(source)
        _Paying(self).visit(source)
        return super()._generate(source, *args, **kwargs)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """One dict: the chain that it is by default takes longer to copy than most to render."""
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Gives a field even when its name is that of a dict's method, such as `items`."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Gives a field, and nothing else of a mapping."""
        if isinstance(obj, Mapping):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Gives the method `format` of a text, which fills in no more than can be paid for."""
        is_method = isinstance(value, BuiltinMethodType | MethodType)
        if not is_method or value.__name__ != "format":
            return None
        template = str(value.__self__)

        def formatted(*args: Any, **kwargs: Any) -> str:
            return _Formatter(self).vformat(template, args, kwargs)

        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as Jinja2 has it
        """Calls the methods of texts and lists that can be paid for, and `range`."""
        if isinstance(__obj, BuiltinMethodType | MethodType):
            if __obj.__name__ == "join" and isinstance(__obj.__self__, str):
                return _concatenated(args[0] if args else (), __obj.__self__)
            _pay_method(__obj, args)
        result = super().call(__context, __obj, *args, **kwargs)
        spend(_size(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiplies numbers, and only those; puts texts and lists together, and fills in."""
        if operator == "%" and isinstance(left, str):
            return _percent(left, *(right if isinstance(right, tuple) else (right,)))
        if operator == "+":
            _made([left, right]) if isinstance(left, list | tuple) else spend(_size(left))
            spend(_size(right))
        elif operator != "%":
            if operator == "**" or not (isinstance(left, _NUMBER) and isinstance(right, _NUMBER)):
                raise SecurityError(f"`{operator}` is for multiplying numbers only")
            if _bits(left) + _bits(right) > _MOST_BITS:
                raise SecurityError("the number becomes too large")
        return super().call_binop(context, operator, left, right)


class _Paying(NodeTransformer):
    """Puts what pays for it around each loop, each `~` and each list that a template makes."""

    def __init__(self, environment: TemplateSandbox) -> None:
        self._environment = environment

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """One node and all in it."""
        weight = _weight(node) if isinstance(node, nodes.For) else 0
        node = self.generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For():
                node.iter = self._paid(_PASSES, node.iter, nodes.Const(weight))
            case nodes.Concat():
                return self._paid(_CONCAT, nodes.List(node.nodes))
            case nodes.List() | nodes.Tuple() | nodes.Dict() if _holds_values(node):
                return self._paid(_MADE, node)
        return node

    def _paid(self, name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        paid = nodes.Filter(value, name, list(args), [], None, None)
        paid.set_environment(self._environment).set_lineno(value.lineno or 1)
        return paid


def _weight(loop: nodes.For) -> int:
    """How much one pass of a loop does: its parts, and the text that stands in it."""
    parts = [inner for part in loop.body for inner in (part, *part.find_all(nodes.Node))]
    written = sum(len(one.data) for one in parts if isinstance(one, nodes.TemplateData))
    return 1 + len(parts) + written


def _holds_values(node: nodes.List | nodes.Tuple | nodes.Dict) -> bool:
    is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"
    return not is_target and any(node.find_all((nodes.Name, nodes.Filter, nodes.Call)))


def _refuse(source: nodes.Template) -> None:
    """Raises `SecurityError` for what loads files, and for what may go on without end."""
    if any(source.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
        raise SecurityError("a template cannot load another file")
    if any(source.find_all((nodes.Macro, nodes.CallBlock, nodes.Block))):
        raise SecurityError("a template has no macros and no blocks")
    if any(loop.recursive for loop in source.find_all(nodes.For)):
        raise SecurityError("a loop in a template cannot be recursive")


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        """Formats one value, no wider than anybody needs."""
        _check_width(*_DIGITS.findall(format_spec))
        text = str(super().format_field(value, format_spec))
        spend(len(text))
        return text


def _passes(values: Iterable[Any], weight: int) -> Iterator[Any]:
    for value in values:
        spend(weight)
        yield value


def _concatenated(values: Iterable[Any], between: Any = "") -> str:
    texts: list[str] = []
    for value in values:
        texts.append(str(value))
        spend(len(texts[-1]) + len(str(between)) + 1)
    return str(between).join(texts)


@pass_environment
def _join(
    environment: TemplateSandbox, value: Iterable[Any], d: Any = "", attribute: Any = None
) -> str:
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return _concatenated(parts, d)


def _made(value: Any) -> Any:
    """A list or a mapping that a template makes, paid for with all that is in it.

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


def _percent(template: Any, *args: Any, **kwargs: Any) -> str:
    """`%`, by which numbers are filled up with zeros and texts are put into others."""
    text = str(template)
    given: Any = kwargs or args
    fields = _PERCENT.findall(text)
    for field in fields:
        _check_width(*field)
    longest = max((len(str(value)) for value in (*args, *kwargs.values())), default=0)
    spend(len(text) + len(fields) * (_WIDEST + longest))
    return text % (args[0] if len(args) == 1 and isinstance(args[0], Mapping) else given)


def _check_width(*widths: str) -> None:
    for width in widths:
        if width == "*" or len(width) > len(str(_WIDEST)) or int(width or 0) > _WIDEST:
            raise SecurityError(f"a format fills up to {_WIDEST} characters at most")


def _paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja2's that pays for its result, before it where that depends on numbers."""
    price, plain = _FILTERS.get(name), unwrap(function)
    # Jinja2 gives some filters an argument that they do not have themselves.
    skipped = int(hasattr(function, "jinja_pass_arg") and not hasattr(plain, "jinja_pass_arg"))

    @wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        if price:
            bound = signature(plain).bind(*args[skipped:], **kwargs)
            bound.apply_defaults()
            spend(price(bound))
        result = function(*args, **kwargs)
        spend(_size(result))
        return result

    return paid


def _named(*names: str) -> Callable[[BoundArguments], int]:
    """The price that the named arguments ask for by themselves."""
    return lambda bound: sum(_number(bound.arguments[name]) for name in names)


def _indented(bound: BoundArguments) -> int:
    lines = len(str(bound.arguments["s"]).splitlines()) + 1
    return lines * _length(bound.arguments["width"])


def _replaced(bound: BoundArguments) -> int:
    found = bound.arguments
    return _replacing(str(found["s"]), str(found["old"]), str(found["new"]))


def _written_out(bound: BoundArguments) -> int:
    if _number(bound.arguments["indent"]) > _MOST_INDENT:
        raise SecurityError(f"`tojson` indents by {_MOST_INDENT} at most")
    return 0


def _summed(bound: BoundArguments) -> int:
    if not isinstance(bound.arguments["start"], _NUMBER):
        raise SecurityError("`sum` is for numbers only")
    return 0


_FILTERS: Mapping[str, Callable[[BoundArguments], int]] = {
    "batch": _named("linecount"),
    "center": _named("width"),
    "indent": _indented,
    "replace": _replaced,
    "round": _named("precision"),
    "slice": _named("slices"),
    "sum": _summed,
    "tojson": _written_out,
}


def _pay_method(method: BuiltinMethodType | MethodType, args: tuple[Any, ...]) -> None:
    """Pays for a method of a text or a list before it is called; others are not there."""
    of, name = method.__self__, method.__name__
    if isinstance(of, LoopContext) or (isinstance(of, list | tuple) and name in _LIST_METHODS):
        return
    if not isinstance(of, str) or name not in _TEXT_METHODS:
        raise SecurityError(f"`{name}` is not there in templates")
    match name, args:
        case "center" | "ljust" | "rjust" | "zfill", (width, *_):
            spend(_number(width))
        case "replace", (old, new, *_):
            spend(_replacing(of, str(old), str(new)))
        case _:
            pass


def _replacing(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * len(new)


def _number(value: Any) -> int:
    return abs(int(value)) if isinstance(value, _NUMBER | bool) else 0


def _length(width: Any) -> int:
    return len(width) if isinstance(width, str) else _number(width)


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _size(value: Any) -> int:
    return 1 + (len(value) if isinstance(value, str | list | tuple | dict | range) else 0)
