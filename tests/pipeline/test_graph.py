"""Items × matrix × steps: which combinations and jobs there are, and what each of them takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import InputInvalid
from comfyline.job import PENDING
from comfyline.pipeline.document import Matrix
from comfyline.pipeline.graph import combinations
from comfyline.pipeline.references import step_needs, step_order
from tests.pipeline.previews import preview

Write = Callable[..., Path]
FILM = {"film": "image-to-video"}
ONE = "  one: {model: m, input: {}}\n"
TWO = "  two: {{model: m, input: {{x: '{{{{ {} }}}}'}}}}\n"


def pipeline(steps: str, *, items: str = "[{name: a}, {name: b}]", more: str = "") -> str:
    return f"name: p\nsource: {{items: {items}}}\n{more}steps:\n{steps}output: {{to: out}}\n"


def labels(write: Write, text: str) -> list[str]:
    found = preview(write(text), FILM)
    assert found.problems == ()
    return [job.label for job in found.all_jobs]


def mistakes(write: Write, text: str) -> list[str]:
    try:
        return [str(problem) for problem in preview(write(text), FILM).problems]
    except InputInvalid as error:
        return [str(problem) for problem in error.problems]


def test_a_step_needs_what_its_templates_name() -> None:
    step = {
        "model": "m",
        "when": "{{ steps.a.files }}",
        "input": {"x": ["{{ steps['b'].images[0] ~ steps.c.image }}", "steps.d"]},
        "for_each": "{{ steps.a.images }}",
    }

    assert set(step_needs(step)) == {"a", "b", "c"}


def test_steps_come_after_what_they_need_and_else_as_written() -> None:
    steps = {
        "c": {"input": {"x": "{{ steps.a.image }}"}},
        "b": {"input": {}},
        "a": {"input": {}},
    }

    assert step_order(steps) == ("b", "a", "c")


def test_a_step_takes_what_another_made_for_the_same_item(write: Write) -> None:
    text = pipeline(
        "  one: {model: m, input: {}}\n"
        "  two: {model: film, input: {image: '{{ steps.one.images[0] }}'}}\n"
    )
    found = preview(write(text), FILM)

    assert [job.label for job in found.all_jobs] == ["a · one", "b · one", "a · two", "b · two"]
    assert found.all_jobs[2].inputs == {"image": f"{PENDING}image:one-0"}


def test_it_fans_out_over_all_outputs_or_a_list_that_is_written_outright(write: Write) -> None:
    text = pipeline(
        "  one: {model: m, for_each: [x, 2], input: {num_images: 3, v: '{{ each }}'}}\n"
        "  two: {model: m, for_each: '{{ steps.one.images }}', when: '{{ each_index > 3 }}',\n"
        "        input: {image: '{{ each }}'}}\n",
        items="[{}]",
    )

    assert labels(write, text) == ["0 · one · 1", "0 · one · 2", "0 · two · 5", "0 · two · 6"]


def test_a_step_may_collect_everything_or_every_combination(write: Write) -> None:
    text = pipeline(
        "  one: {model: m, input: {}}\n"
        "  every: {model: m, collect: true, input: {images: '{{ steps.one.images }}',\n"
        "          n: '{{ items | map(attribute=\"name\") | list }}'}}\n"
        "  each: {model: m, collect: items, input: {images: '{{ steps.one.images }}',\n"
        "         r: '{{ matrix.r }}'}}\n",
        more="matrix: {r: [1, 2, 3]}\n",
    )
    found = preview(write(text))
    every, *each = found.all_jobs[6:]

    assert (every.label, len(every.inputs["images"])) == ("all · every", 6)
    assert every.inputs["n"] == ["a", "b"]
    assert [job.label for job in each] == [f"all · each · {number}" for number in (1, 2, 3)]
    assert {len(job.inputs["images"]) for job in each} == {2}


def test_where_a_step_does_not_apply_neither_does_what_needs_it(write: Write) -> None:
    text = pipeline(
        "  one: {model: m, when: \"{{ item.name == 'a' }}\", input: {}}\n"
        "  two: {model: m, input: {image: '{{ steps.one.image }}'}}\n"
        "  sum: {model: m, collect: true, input: {images: '{{ steps.two.images }}'}}\n"
    )

    assert labels(write, text) == ["a · one", "a · two", "all · sum"]


@pytest.mark.parametrize(
    ("value", "applies"),
    [("yes", True), ("true", True), ("No", False), ("", False), ("1", True), ("0", False)],
)
def test_words_of_a_table_decide_as_they_read(write: Write, *, value: str, applies: bool) -> None:
    text = pipeline(
        "  one: {model: m, when: '{{ item.hero }}', input: {}}\n", items=f"[{{hero: '{value}'}}]"
    )

    assert bool(labels(write, text)) is applies


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            ONE.replace("{}", "{x: '{{ steps.two.image }}'}")
            + TWO.format("steps.three.image")
            + "  three: {model: m, input: {x: '{{ steps.one.image }}'}}\n",
            "p.yaml:4:3: the steps depend on each other in a circle: ",
        ),
        (
            ONE + TWO.format("steps.onne.image"),
            "p.yaml:5:27: there is no step `onne`; did you mean `one`?",
        ),
        (
            ONE + TWO.format("steps.one.imags[0]"),
            "p.yaml:5:27: the outputs of a step have no `imags`; did you mean `images`?",
        ),
        (
            ONE.replace(": m", ": film") + TWO.format("steps.one.images[0]"),
            "p.yaml:5:27: the list has no entry 0 (item a and 1 more item); it is empty",
        ),
        (
            "  one: {model: m, when: '{{ item.name }}', input: {}}\n",
            "p.yaml:4:19: `when` should give true or false, not 'a'",
        ),
        (
            "  one: {model: m, for_each: '{{ item.name }}', input: {}}\n",
            "p.yaml:4:19: `for_each` should give a list",
        ),
    ],
)
def test_what_is_wrong_with_a_graph_is_said_where_it_stands(
    write: Write, steps: str, expected: str
) -> None:
    found = mistakes(write, pipeline(steps))

    assert any(one.startswith(expected) for one in found), found


def test_a_step_that_collects_needs_a_name_without_an_item(write: Write) -> None:
    steps = (
        "  one: {model: m, input: {}}\n"
        "  sum: {model: m, collect: true, input: {x: '{{ steps.one.images }}'}}\n"
    )
    text = pipeline(steps).replace("{to: out}", "{to: out, name: '{{ item.name }}-{{ step }}.png'}")
    named = text.replace("collect: true,", "collect: true, output: {name: sum.png},")

    [told] = mistakes(write, text)
    assert told.startswith("p.yaml:6:19: unknown name `item`; a step that collects has no item")
    assert mistakes(write, named) == []


FRUIT = {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]}
# The example by which GitHub Actions explains it.
INCLUDED: list[Any] = [
    {"color": "green"},
    {"color": "pink", "animal": "cat"},
    {"fruit": "apple", "shape": "circle"},
    {"fruit": "banana"},
    {"fruit": "banana", "animal": "cat"},
]


@pytest.mark.parametrize(
    ("matrix", "made"),
    [
        ({}, [{}]),
        ({"a": [1, 2], "b": [3, 4]}, [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]),
        (
            FRUIT | {"include": INCLUDED},
            [
                {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
                {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
                {"fruit": "pear", "animal": "cat", "color": "pink"},
                {"fruit": "pear", "animal": "dog", "color": "green"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        ),
        ({"include": [{"a": 1}, {"a": 1, "b": 2}]}, [{"a": 1}, {"a": 1, "b": 2}]),
        (
            FRUIT | {"exclude": [{"fruit": "apple"}, {"fruit": "pear", "animal": "cat"}]},
            [{"fruit": "pear", "animal": "dog"}],
        ),
        ({"a": [1], "exclude": [{"a": 1}]}, []),
        ({"a": [1], "exclude": [{"a": 1}], "include": [{"a": 1, "b": 2}]}, [{"a": 1, "b": 2}]),
        ({"a": [1, True, "1"], "exclude": [{"a": True}]}, [{"a": 1}, {"a": "1"}]),
    ],
)
def test_a_matrix_is_crossed_as_github_actions_does(matrix: Any, made: Any) -> None:
    assert combinations(Matrix.model_validate(matrix)) == made
