"""What outputs are called: safe names, each output's own, and versions beside others' files."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import Placement, StoredOutput
from comfyline.pipeline.output_names import (
    colliding_names,
    is_version,
    output_name,
    output_uris,
    own_names,
    versions,
)
from tests.pipeline.previews import preview

Write = Callable[..., Path]


def named(value: object, template: str = "{{ item.v }}.{{ ext }}", ext: str = "png") -> str:
    return output_name(Placement("out", template, {"item": {"v": value}}), 0, ext)


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


@pytest.mark.parametrize("value", ["", "..", " . "])
def test_an_empty_name_is_a_mistake(value: str) -> None:
    with pytest.raises(InputInvalid, match="empty once rendered"):
        named(value)


@given(st.text(max_size=300), st.sampled_from(["png", "mp4", "", "../x", "a b"]))
def test_any_value_gives_one_plain_short_name(value: str, ext: str) -> None:
    try:
        name = named(value, ext=ext)
    except InputInvalid:
        return
    assert not set(name) & set('/\\:*?"<>|\0')
    assert 0 < len(name.encode()) <= 200
    assert name not in (".", "..")
    assert name == named(value, ext=ext)
    assert named("日" * 300 + value, ext=ext) != named("日" * 300 + value + "x", ext=ext)


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ('"{{ item.sku }}-', '"', "p.yaml:10:3", "add {{ item_name }} to output.name"),
        ("{{ matrix.ratio }}-{{ m", "{{ m", "p.yaml:10:3", "add {{ matrix.ratio }} to output.name"),
        (
            "    input:\n",
            '    output: {name: "{{ item.sku }}-{{ matrix.seed }}"}\n    input:\n',
            "p.yaml:10:3",
            "add {{ matrix.ratio }} to steps.edit.output.name",
        ),
        (
            "    model:",
            "    for_each: [a, b]\n    model:",
            "p.yaml:10:3",
            "add {{ each_index }} to output.name",
        ),
    ],
)
def test_names_that_collide_ask_for_what_tells_the_jobs_apart(
    write: Write, old: str, new: str, where: str, hint: str
) -> None:
    [problem] = colliding_names(preview(write(**{old: new})).all_jobs, lambda _: 1)

    assert (problem.where, problem.hint) == (where, hint)
    assert "would both be called" in problem.message


def test_several_outputs_of_one_job_ask_for_the_index(write: Write) -> None:
    jobs = preview(write(**{"-{{ index }}": ""})).all_jobs

    assert colliding_names(jobs, lambda _: 1) == []
    [problem] = colliding_names(jobs, lambda _: 2)
    assert problem.hint == "add {{ index }} to output.name"


def outputs(*types: str) -> list[StoredOutput]:
    sha256 = hashlib.sha256(b"").hexdigest()
    return [StoredOutput(index, "", sha256, 1, kind) for index, kind in enumerate(types)]


def names(template: str, made: Sequence[StoredOutput], **scope: object) -> list[str]:
    placement = Placement("s3://b/out", template, {"item_name": "cat"} | scope)
    return [uri.removeprefix("s3://b/out/") for uri in output_uris(placement, made)]


def test_names_are_as_the_template_says_where_they_differ() -> None:
    made = outputs("image/png", "image/jpeg")

    assert names("{{ item_name }}-{{ index }}.{{ ext }}", made) == ["cat-0.png", "cat-1.jpg"]
    assert names("{{ item_name }}.{{ ext }}", made) == ["cat.png", "cat.jpg"]
    placement = Placement("/out x", "ä#{{ index }}.{{ ext }}", {})
    assert output_uris(placement, made[:1]) == ("file:///out%20x/%C3%A4%230.png",)


def test_an_output_beyond_the_plan_gets_a_name_of_its_own_in_every_run() -> None:
    made, name = outputs("image/png", "image/png", "image/png"), "{{ item_name }}.{{ ext }}"
    first, second, third = cat = names(name, made, item_name="cat")
    other = names(name, made, item_name="cat-1")
    again = names(name, made, item_name="cat-1", matrix={"seed": 1})

    assert first == "cat.png"
    assert (second[:4], second[-6:], third[-6:]) == ("cat-", "-1.png", "-2.png")
    assert not set(cat) & set(other)
    assert other[1] != again[1]
    assert names(name, made, item_name="cat", run={"id": "another"}) == cat


def test_a_template_that_knows_fewer_names_than_outputs_does_not_lose_one() -> None:
    made = outputs("image/png", "image/png")

    first, second = names("{{ matrix['names'][index] }}.{{ ext }}", made, matrix={"names": ["a"]})

    assert first == "a.png"
    assert second.startswith("a-")
    with pytest.raises(InputInvalid):
        names("{{ nothing }}.{{ ext }}", made)


@given(
    st.lists(st.sampled_from(["image/png", "image/jpeg", "video/mp4", ""]), max_size=6),
    st.sampled_from(
        ["{{ item_name }}.{{ ext }}", "a", "{{ 'A' if index else 'a' }}.png", "a-{{ index % 2 }}"]
    ),
)
def test_names_of_one_job_are_unique_and_always_the_same(types: list[str], template: str) -> None:
    made = outputs(*types)

    given = names(template, made)

    assert len({name.casefold() for name in given}) == len(made)
    assert names(template, made) == given


@pytest.mark.parametrize(
    ("uri", "second"),
    [
        ("s3://b/v1.2/cat", "s3://b/v1.2/cat-2"),
        ("file:///out/c.a.t.png", "file:///out/c.a.t-2.png"),
        ("file:///out/cat-2.png", "file:///out/cat-2-2.png"),
    ],
)
def test_a_version_is_numbered_before_the_ending_of_the_name(uri: str, second: str) -> None:
    assert list(islice(versions(uri), 2)) == [uri, second]


uris = st.from_regex(r"s3://b/[a-c.\-2]{0,4}/[a-c.\-2]{1,6}", fullmatch=True)


@given(uris, uris)
def test_every_version_of_a_name_is_known_as_one_and_nothing_else_is(one: str, of: str) -> None:
    some = list(islice(versions(of), 120))

    assert not is_version(of, of)
    assert all(is_version(version, of) for version in some[1:])
    assert len(set(some)) == len(some)
    assert is_version(one, of) == (one in some[1:])


@pytest.mark.parametrize("number", ["", "0", "1", "02", "-2", "2 ", "x", "²"])
def test_only_numbers_from_two_on_make_a_version(number: str) -> None:
    assert not is_version(f"s3://b/cat-{number}.png", "s3://b/cat.png")


def test_an_output_lies_under_its_own_name_before_any_version_of_it() -> None:
    recorded = ["s3://b/cat-2.png", "s3://c/cat-3.png", "s3://b/cat.png"]

    assert own_names(recorded, "s3://b/cat.png") == ("s3://b/cat.png",)
    assert own_names(recorded[:2], "s3://b/cat.png") == ("s3://b/cat-2.png",)
    assert own_names(recorded, "s3://b/dog.png") == ()
