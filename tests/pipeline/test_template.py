import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.pipeline.template import render, render_text

SCOPE = {
    "item": {
        "path": "a.jpg",
        "n": 3,
        "tags": ["x", "y"],
        "none": None,
        "items": "field",
        "t": "9",
        "huge": "inf",
    },
    "item_name": "a",
    "matrix": {"ratio": "1:1", "loud": True},
    "run": {"id": "r", "date": "2026-01-31"},
    "step": "edit",
}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{{ item.n }}", 3),
        (" {{- item.tags -}}\n", ["x", "y"]),
        ("{{ item.t }}", "9"),
        ("{{ matrix.loud }}", True),
        ("{{ item.none }}", None),
        ("{{ item.tags | map('upper') }}", ["X", "Y"]),
        ("{{ item.n * 2 }}", 6),
        ("{{ '}}' }}", "}}"),
        ("n={{ item.n }}", "n=3"),
        ("{{ item.n }}{{ item.n }}", "33"),
        ("{{ matrix.loud }}!", "true!"),
        ("{{ item.items }}", "field"),
        ("{{ item['path'] }}", "a.jpg"),
        ("{{ item.nope | default('d') }}", "d"),
        ("{% if item.nope is defined %}a{% else %}b{% endif %}", "b"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("no template: 123", "no template: 123"),
        ("123", "123"),
        ("a line\n", "a line\n"),
        ("{{ step }} line\n", "edit line\n"),
        ({"a": ["{{ item.n }}", 1, None]}, {"a": [3, 1, None]}),
        ("{{ '<' | e }}", "&lt;"),
    ],
)
def test_an_expression_keeps_its_type_and_other_text_is_text(written: Any, expected: Any) -> None:
    value, mistakes = render(written, SCOPE)

    assert (value, mistakes) == (expected, [])
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{{ item.pth }}", "there is no field `pth`; did you mean `path`?"),
        ("x {{ item.pth }}", "there is no field `pth`; did you mean `path`?"),
        ("{{ [item.pth] }}", "there is no field `pth`; did you mean `path`?"),
        ("{{ matrix.zzz }}", "there is no field `zzz`; there are: ratio, loud"),
        ("{{ nope }}", "`nope` is not defined"),
        ("x {{ item.none }}", "the value is nothing (null), in the middle of a text"),
        ("x {{ item.tags }}", "the value is a list, in the middle of a text"),
        ("x {{ item }}", "the value is a mapping, in the middle of a text"),
        ("{{ item.path.upper }}", "the template gives a function, not a value"),
        ("x {{ item.path.upper }}", "the template gives a function, not a value"),
        ("{{ 1 / 0 }}", "the template fails: division by zero"),
        ("{{ item.huge | float }}", "the template gives inf, which is not a number"),
        ("{{ 'x' * 10 ** 10 }}", "is for multiplying numbers only"),
        ("{{ oops", "the template is broken"),
    ],
)
def test_a_mistake_says_what_to_write(written: str, message: str) -> None:
    value, [mistake] = render({"a": [written]}, SCOPE)

    assert value == {"a": [None]}
    assert mistake.pointer == ("a", 0)
    assert message in f"{mistake.message}; {mistake.hint}"


@pytest.mark.parametrize(
    "written",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ item.__class__ }}",
        "{{ item['__class__'] }}",
        "{{ item | attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%s' | format(item.path.__len__) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{{ self.__init__ }}",
        "{{ item.tags.append(1) }}",
        "{{ item.tags | map(attribute='__class__') }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ item.get('path') }}",
        "{{ item.update({'a': 1}) }}",
        "{{ open('/etc/passwd') }}",
        "{{ range(10 ** 9) }}",
    ],
)
def test_no_template_reaches_python_or_the_file_system(written: str) -> None:
    for text in (written, f"x {written}"):
        value, mistakes = render(text, SCOPE)
        assert mistakes, value
    assert SCOPE["item"]["tags"] == ["x", "y"]  # type: ignore[index]


def test_what_has_to_be_text_becomes_text() -> None:
    assert render_text("{{ item.n }}", SCOPE) == ("3", [])
    assert render_text("{{ item.tags }}", SCOPE)[1]


def test_ten_thousand_renders_are_fast() -> None:
    started = time.perf_counter()
    for number in range(10_000):
        render({"p": "a {{ item.n }} b", "i": ["{{ item.n }}"]}, {"item": {"n": number}})

    assert time.perf_counter() - started < 5


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    " item",
    ".n",
    ".x",
    "|",
    "'",
    "(",
    ")",
    "[0]",
    "for i in ",
    "if ",
]
PIECES += ["endif", "*", "**", "9", "~", "{#", "#}", "raw", " is ", "self", "set a=", ".__class__"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20))
def test_any_text_is_rendered_or_a_mistake(text: str) -> None:
    value, mistakes = render(text, SCOPE)

    assert value is None or not mistakes
