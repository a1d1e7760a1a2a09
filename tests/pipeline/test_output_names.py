from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import Job, Placement
from comfyline.pipeline.output_names import colliding_names, output_name
from tests.pipeline.previews import preview

Write = Callable[..., Path]


def named(value: object, template: str = "{{ item.v }}.{{ ext }}", ext: str = "png") -> str:
    return output_name(Placement("out", template, {"item": {"v": value}}), 0, ext)


def jobs_of(path: Path) -> tuple[Job, ...]:
    return preview(path).all_jobs


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1:1", "1-1.png"),
        ("a/b\\c", "a-b-c.png"),
        ("../../etc", "-..-etc.png"),
        ("CON", "CON_.png"),
        ("x. ", "x.png"),
        ("cafe\u0301", "caf\u00e9.png"),
        ("日本", "日本.png"),
        ("a\nb\x00", "a-b-.png"),
    ],
)
def test_a_name_fits_every_file_system(value: object, expected: str) -> None:
    assert named(value) == expected


def test_a_name_always_ends_with_what_the_file_is() -> None:
    assert named("a", "{{ item.v }}") == "a.png"
    assert named("a", "{{ item.v }}.PNG") == "a.png"
    assert named("a", "{{ item.v }}.jpg") == "a.jpg.png"
    assert named("a", "{{ item.v }}", ext="") == "a"


def test_a_long_name_keeps_its_extension_and_stays_different() -> None:
    one, other = named("日" * 300 + "a"), named("日" * 300 + "b")

    assert one != other
    assert one.endswith(".png")
    assert len(one.encode()) <= 200


@pytest.mark.parametrize("value", ["", "..", " . "])
def test_an_empty_name_is_a_mistake(value: str) -> None:
    with pytest.raises(InputInvalid, match="empty once rendered"):
        named(value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["png", "mp4", "", "../x", "a b"]))
def test_any_value_gives_one_plain_short_name(value: str, ext: str) -> None:
    try:
        name = named(value, ext=ext)
    except InputInvalid:
        return
    assert not set(name) & set('/\\:*?"<>|\0')
    assert 0 < len(name.encode()) <= 200
    assert name not in (".", "..")
    assert Path(name).name == name
    assert name == named(value, ext=ext)


def test_names_that_differ_only_by_item_ask_for_the_item(write: Write) -> None:
    jobs = jobs_of(write(**{'"{{ item.sku }}-{{ matrix.ratio }}': '"{{ matrix.ratio }}'}))

    [problem] = colliding_names(jobs, lambda _: 1)

    assert str(problem) == (
        "p.yaml:10:3: outputs of `A1 · edit · 1:1 · 1` and `B2 · edit · 1:1 · 1` would both be "
        "called '1-1-1-edit-0' (and 3 more); add {{ item_name }} to output.name"
    )


def test_names_that_differ_only_by_the_matrix_ask_for_the_matrix(write: Write) -> None:
    jobs = jobs_of(write(**{"{{ matrix.ratio }}-{{ matrix.seed }}-": "{{ matrix.seed }}-"}))

    [problem] = colliding_names(jobs, lambda _: 1)

    assert problem.hint == "add {{ matrix.ratio }} to output.name"


def test_several_outputs_of_one_job_ask_for_the_index(write: Write) -> None:
    jobs = jobs_of(write(**{"-{{ index }}": ""}))

    assert colliding_names(jobs, lambda _: 1) == []
    [problem] = colliding_names(jobs, lambda _: 2)
    assert problem.hint == "add {{ index }} to output.name"


def test_a_step_with_a_name_of_its_own_is_told_to_mend_that_one(write: Write) -> None:
    own = '    output: {name: "{{ item.sku }}-{{ matrix.seed }}"}\n'
    jobs = jobs_of(write(**{"    input:\n": own + "    input:\n"}))

    [problem] = colliding_names(jobs, lambda _: 1)

    assert problem.hint == "add {{ matrix.ratio }} to steps.edit.output.name"


def test_jobs_of_one_step_that_fans_out_ask_for_their_number(write: Write) -> None:
    jobs = jobs_of(
        write(**{"    model: some/model": "    model: some/model\n    for_each: [a, b]"})
    )

    [problem] = colliding_names(jobs, lambda _: 1)

    assert problem.hint == "add {{ each_index }} to output.name"
