import hashlib
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import Placement, StoredOutput
from comfyline.pipeline.output_names import is_version, output_uris, own_names, versions


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


def test_a_name_that_looks_like_a_told_apart_one_is_left_to_its_output() -> None:
    made = outputs("image/png", "image/png", "image/png")
    plain = names("a.{{ ext }}", made)
    template = f"{{{{ '{plain[1][:-4]}' if index == 0 else 'A' }}}}.{{{{ ext }}}}"

    assert len({name.casefold() for name in names(template, made)}) == 3


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
        [
            "{{ item_name }}.{{ ext }}",
            "a",
            "{{ 'A' if index else 'a' }}.png",
            "{{ index // 2 }}.{{ ext }}",
            "a-{{ index % 2 }}",
        ]
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
        ("s3://b/out/cat.png", "s3://b/out/cat-2.png"),
        ("s3://b/v1.2/cat", "s3://b/v1.2/cat-2"),
        ("file:///out/c.a.t.png", "file:///out/c.a.t-2.png"),
        ("file:///out/cat-2.png", "file:///out/cat-2-2.png"),
    ],
)
def test_a_version_is_numbered_before_the_ending_of_the_name(uri: str, second: str) -> None:
    assert list(islice(versions(uri), 2)) == [uri, second]


uris = st.from_regex(r"s3://b/[a-c.\-2]{0,4}/[a-c.\-2]{1,6}", fullmatch=True)


@given(uris)
def test_every_version_of_a_name_is_known_as_one_and_is_unlike_all_others(uri: str) -> None:
    some = list(islice(versions(uri), 120))

    assert not is_version(uri, uri)
    assert all(is_version(one, uri) for one in some[1:])
    assert len(set(some)) == len(some)


@given(uris, uris)
def test_nothing_else_is_taken_for_a_version(one: str, of: str) -> None:
    assert is_version(one, of) == (one in list(islice(versions(of), 1, 30)))


@pytest.mark.parametrize("number", ["", "0", "1", "02", "-2", "2 ", "x", "²"])
def test_only_numbers_from_two_on_make_a_version(number: str) -> None:
    assert not is_version(f"s3://b/cat-{number}.png", "s3://b/cat.png")


def test_an_output_lies_under_its_own_name_before_any_version_of_it() -> None:
    recorded = ["s3://b/cat-2.png", "s3://c/cat-3.png", "s3://b/cat.png"]

    assert own_names(recorded, "s3://b/cat.png") == ("s3://b/cat.png",)
    assert own_names(recorded[:2], "s3://b/cat.png") == ("s3://b/cat-2.png",)
    assert own_names(recorded, "s3://b/dog.png") == ()
