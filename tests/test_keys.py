"""What makes two requests the same job, and what does not."""

import dataclasses
import json
import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import ContentChecks, Job, Media, Placement, Preparation
from comfyline.keys import job_key, replace_values

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FINITE = SCALARS.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
JSON = st.recursive(
    FINITE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)

JOB = Job(
    pipeline="scenes",
    item="cat",
    step="edit",
    model_id="acme/painter",
    inputs={"prompt": "a cat", "image_urls": ["in/cat.jpg"]},
    placement=Placement("/out", "{{ index }}.png", {"item": {"path": "in/cat.jpg"}}),
    variant=None,
    settings={"ratio": "1:1"},
    source="scenes.yaml:9",
)
IN_THE_KEY: dict[str, Any] = {
    "model_id": "acme/sculptor",
    "inputs": {"prompt": "a dog", "image_urls": ["in/cat.jpg"]},
    "variant": 2,
}
IRRELEVANT: dict[str, tuple[Any, str]] = {
    "pipeline": ("others", "the same request is paid for once, whichever pipeline asks for it"),
    "item": ("dog", "a name for people; what an item changes stands in the inputs"),
    "step": ("repaint", "a name for people; what a step does is its model and its inputs"),
    "placement": (Placement("/elsewhere", "x", {}), "where outputs go: a copy is not paid for"),
    "settings": ({"ratio": "16:9"}, "matrix values for people; they work through the inputs"),
    "source": ("scenes.yaml:12", "where the step is written, for messages"),
    "written": (None, "where each field is written, for messages"),
    "part": (3, "a name for people; what differs within a fan-out stands in the inputs"),
    "preparation": (Preparation("webp"), "what is allowed; what is done is said of each medium"),
    "checks": (ContentChecks(min_width=9), "what an output has to show, not what is asked for"),
}


def picture(origin: str = "in/cat.jpg", content: str = "a", kind: Any = "image") -> Media:
    return Media(("image_urls", 0), origin, kind, content * 64, 12, "image/jpeg")


def key_of(job: Job, *media: Media) -> str:
    return job_key(job.model_id, job.inputs, media or (picture(),), job.variant)


def key(inputs: dict[str, Any], variant: Any = None) -> str:
    return job_key("acme/painter", inputs, (), variant)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(inner) for name, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


def test_every_field_of_a_job_is_in_the_key_or_irrelevant_for_a_reason():
    fields = {field.name for field in dataclasses.fields(Job)}
    assert fields == set(IN_THE_KEY) | set(IRRELEVANT)
    assert not set(IN_THE_KEY) & set(IRRELEVANT)


@pytest.mark.parametrize("name", IN_THE_KEY)
def test_what_is_asked_for_changes_the_key(name: str):
    assert key_of(dataclasses.replace(JOB, **{name: IN_THE_KEY[name]})) != key_of(JOB)


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_is_irrelevant_does_not_change_the_key(name: str):
    other, reason = IRRELEVANT[name]
    assert key_of(dataclasses.replace(JOB, **{name: other})) == key_of(JOB), reason


def test_a_key_stays_the_same_over_versions_and_machines():
    # Should this fail, everything that was ever paid for would be paid for again.
    assert key_of(JOB) == "e04be145958e2904bd078e67b3037fd478e47b8a359a754a10d160975a4e3af4"


def test_media_count_by_content_and_not_by_name_place_or_size():
    renamed = dataclasses.replace(JOB, inputs={**JOB.inputs, "image_urls": ["https://x.y/z?a=b"]})
    moved = dataclasses.replace(picture("https://x.y/z?a=b"), bytes=99, media_type="image/png")
    assert key_of(renamed, moved) == key_of(JOB)
    assert key_of(JOB, picture(content="b")) != key_of(JOB)


def test_the_place_and_the_order_of_media_are_part_of_what_is_asked_for():
    inputs = {"image_urls": ["1.jpg", "2.jpg"]}
    one, two = (dataclasses.replace(picture(content=c), pointer=("image_urls", i))
                for i, c in enumerate("ab"))  # fmt: skip
    swapped = [
        dataclasses.replace(one, sha256=two.sha256),
        dataclasses.replace(two, sha256=one.sha256),
    ]
    assert job_key("m", inputs, [one, two], None) == job_key("m", inputs, [two, one], None)
    assert job_key("m", inputs, [one, two], None) != job_key("m", inputs, swapped, None)


def test_one_and_true_and_their_texts_are_four_different_requests():
    values = [True, 1, 1.0, "1", "true", None, "null", [1], {"1": 1}]
    for wrap in (lambda v: key({"n": v}), lambda v: key({"n": [v]}), lambda v: key({}, v)):
        assert len({wrap(value) for value in values}) == len(values)


def test_a_missing_field_is_another_request_than_an_empty_one():
    assert len({key({}), key({"seed": None}), key({"seed": ""}), key({"seed": []})}) == 4


def test_what_stands_in_the_inputs_is_not_taken_for_the_variant():
    assert key({"variant": 1}) != key({}, 1)


@given(OBJECTS, JSON)
def test_the_order_of_keys_is_no_difference(inputs: dict[str, Any], variant: Any):
    assert key(inputs, variant) == key(reordered(inputs), reordered(variant))


@given(OBJECTS, OBJECTS)
def test_two_requests_share_a_key_exactly_if_the_same_json_goes_out(
    one: dict[str, Any], other: dict[str, Any]
):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key(one) == key(other)) is same


@given(OBJECTS)
def test_a_request_keeps_its_key_through_the_ledger(inputs: dict[str, Any]):
    assert key(json.loads(json.dumps(inputs))) == key(inputs)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan is not a number"),
        (-math.inf, "-inf is not a number"),
        (date(2026, 1, 2), "a date cannot be sent"),
        (b"x", "a bytes cannot be sent"),
        ({1: "x"}, "key 1 is not text"),
        ("caf\udce9", "not UTF-8"),
    ],
)
def test_what_json_cannot_say_is_a_mistake_with_its_place(value: Any, words: str):
    with pytest.raises(InputInvalid) as error:
        key({"seed": 1, "style": {"parts": ["a", value]}}, {"x": value})
    assert [problem.where for problem in error.value.problems] == ["style.parts.1", "variant.x"]
    assert words in str(error.value)


def test_replacing_values_leaves_the_inputs_as_they_were():
    inputs = {"a": [{"b": "old"}, "same"], "c": "old"}
    replaced = replace_values(inputs, {("a", 0, "b"): "new", ("c",): "new"})
    assert replaced == {"a": [{"b": "new"}, "same"], "c": "new"}
    assert inputs == {"a": [{"b": "old"}, "same"], "c": "old"}
