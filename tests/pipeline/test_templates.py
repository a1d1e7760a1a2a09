import resource
import time
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.pipeline.templates import render, render_text

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
        ("{{ matrix.zzz }}", "there is no field `zzz`; there are: ratio, loud"),
        ("{{ nope }}", "`nope` is not defined"),
        ("x {{ item.none }}", "a null value in the middle of a text"),
        ("x {{ item.tags }}", "a list in the middle of a text"),
        ("x {{ item }}", "a mapping in the middle of a text"),
        ("x {{ item.path.upper }}", "the template returns a function, not a value"),
        ("{{ 1 / 0 }}", "the template fails: division by zero"),
        ("{{ item.huge | float }}", "the template returns inf, which is not a number"),
        ("{{ 'x' * 10 ** 10 }}", "is for multiplying numbers only"),
        ("{{ oops", "invalid template"),
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
        "{{ item.__class__ }}",
        "{{ item | attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%s' | format(item.path.__len__) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum() }}",
        "{{ item.tags.append(1) }}",
        "{{ item.tags | map(attribute='__class__') }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ item.get('path') }}",
        "{{ open('/etc/passwd') }}",
        "{{ range(10 ** 9) }}",
    ],
)
def test_no_template_reaches_python_or_the_file_system(written: str) -> None:
    for text in (written, f"x {written}"):
        value, mistakes = render(text, SCOPE)
        assert mistakes, value
    assert SCOPE["item"]["tags"] == ["x", "y"]  # type: ignore[index]


DOUBLED = "{% set a = 'aaaa' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}"
TEN_THOUSAND = "{% set a = item.long | replace('x', '1234567890') %}"
HOSTILE = [
    "{{ 'x' | center(10 ** 9) }}",
    "{{ ('x' | safe).center(1000000000) }}",
    "{{ ['x'] | map('center', 1000000000) | list }}",
    "{{ '1'.zfill(1000000000) }}",
    "{{ 'x'.translate({120: 'x'}) }}",
    "{{ '%*d' | format(1000000000, 1) }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "{{ 'a' * 1000000000 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ [1] | batch(1000000000, 0) | list }}",
    "{{ (range(90000) | join('\\n')) | indent(1000) }}",
    "{{ ('x' | center(100)).replace(' ', item.long).replace('x', item.long).replace('', 'ab') }}",
    "{{ range(90000) | join('y' | center(100)) }}",
    TEN_THOUSAND + "{{ range(90000) | join(a) }}",
    TEN_THOUSAND + "{{ a.join(range(90000) | map('string')) }}",
    TEN_THOUSAND + "{{ range(90000) | join('\\n') | indent(a) }}",
    TEN_THOUSAND + "{{ (a | replace('12345', '{0}{0}{0}')).format(a ~ a ~ a ~ a ~ a) }}",
    "{% set a = item.long[:900] %}{% set a = a.replace('x', a) %}{{ a.replace('x', a) }}",
    "{% set a = 1 %}" + "{% set a = [a, {'b': a}] %}" * 60 + "{{ a | string }}",
    "{{ range(90000) | map('center', 100) | list }}",
    DOUBLED,
    DOUBLED.replace("'aaaa'", "[1]").replace("~", "+"),
    "{% set a = 12345 %}" + "{% set a = a * a %}" * 60 + "{{ a > 1 }}",
    "{% set a %}aaaa{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60 + "{{ a }}",
    "{% for i in range(90000) %}{% for j in range(90000) if j > i %}x{% endfor %}{% endfor %}",
    "{% for i in range(90000) %}" + "static text " * 2000 + "{% endfor %}",
    "{% for i in range(90000) %}{% set a = item.long | upper %}{% endfor %}",
    "{% for i in [[[]]] recursive %}{{ loop(i) }}{{ loop(i) }}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
]


@pytest.mark.parametrize("written", HOSTILE)
def test_no_template_takes_gigabytes_or_minutes(written: str) -> None:
    scope = {"item": {"long": "x" * 1000}}
    held, limits = resource.getrlimit(resource.RLIMIT_AS), psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (limits + 400 * 2**20, held[1]))
    began = time.process_time()
    try:
        for text in (written, f"x {written}"):
            _, [mistake] = render(text, scope)
            assert mistake.message
            assert not mistake.message.startswith("the template fails"), mistake
    finally:
        resource.setrlimit(resource.RLIMIT_AS, held)

    assert time.process_time() - began < 8


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{{ '%03d' | format(item.n) }}", "003"),
        ("{{ '%(a)s 100%%' | format(a='x') }}", "x 100%"),
        ("{{ '%.2f' % 1.5 }}", "1.50"),
        ("{{ '{:03d}'.format(item.n) }}", "003"),
        ("{{ item.path.split('.')[0].replace('a', 'b').upper() }}", "B"),
        ("{{ ', '.join(item.tags) }}", "x, y"),
        ("{{ item.tags | join(', ') }}", "x, y"),
        ("{{ [item, item] | join('+', attribute='path') }}", "a.jpg+a.jpg"),
        ("{{ item.path ~ '-' ~ item.n }}", "a.jpg-3"),
        ("{{ item.tags + ['z'] }}", ["x", "y", "z"]),
        ("{{ {'a': item.n, 'b': [item.path]} }}", {"a": 3, "b": ["a.jpg"]}),
        ("{{ item.tags | batch(1) | list }}", [["x"], ["y"]]),
        ("{{ 2.567 | round(1) }}", 2.6),
        ("{{ item.tags | tojson }}", '["x", "y"]'),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{% for a, b in [(1, item.n)] %}{{ a }}{{ b }}{% endfor %}", "13"),
        ("{% for t in item.tags %}{{ loop.length }}{{ loop.cycle('a', t) }}{% endfor %}", "2a2y"),
        ("{% for i in range(9) if i is even %}{{ i }}{% else %}none{% endfor %}", "02468"),
        ("{% set a %}x{{ item.n }}{% endset %}{{ a | upper }}", "X3"),
    ],
)
def test_what_prompts_are_made_with_is_there(written: str, expected: Any) -> None:
    assert render(written, SCOPE) == (expected, [])


def test_a_long_text_of_many_items_is_no_hostile_one() -> None:
    items = [{"name": f"item {number}", "tags": ["a", "b"]} for number in range(2000)]
    one = "{{ loop.index }}. {{ one.name }}: {{ one.tags | join }}; "
    written = "{% for one in items %}" + one + "{% endfor %}"

    text, mistakes = render(written, {"items": items})

    assert mistakes == []
    assert text.endswith("2000. item 1999: ab; ")


def test_what_has_to_be_text_becomes_text() -> None:
    assert render_text("{{ item.n }}", SCOPE) == ("3", [])
    assert render_text("{{ item.tags }}", SCOPE)[1]
    # What one template has used up is not missing to the next text.
    assert render("{% for i in range(90000) %}" + "x" * 11 + "{% endfor %}", {})[1]
    assert render_text("a plain text of some length", SCOPE)[1] == []


PIECES = ["{{", "}}", "{%", "%}", " item", ".n", ".x", "|", "'", "(", ")", "[0]", "for i in "]
PIECES += ["if ", "endif", "*", "**", "9", "~", "{#", "#}", "raw", " is ", "self", "set a="]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20))
def test_any_text_is_rendered_or_a_mistake(text: str) -> None:
    value, mistakes = render(text, SCOPE)

    assert value is None or not mistakes
