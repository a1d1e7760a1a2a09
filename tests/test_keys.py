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
IRRELEVANT: dict[str, Any] = {
    # The same request is paid for once, whichever pipeline asks for it.
    "pipeline": "others",
    # Names and values for people; what they change stands in the inputs.
    "item": "dog",
    "step": "repaint",
    "settings": {"ratio": "16:9"},
    "labels": {"client": "acme"},
    "part": 3,
    # Where outputs go: a copy is not paid for.
    "placement": Placement("/elsewhere", "x", {}),
    # Where the step and its fields are written, for messages.
    "source": "scenes.yaml:12",
    "written": None,
    # What is allowed; what is done is said of each medium.
    "preparation": Preparation("webp"),
    # What an output has to show, not what is asked for.
    "checks": ContentChecks(min_width=9),
}
PICTURE = Media(("image_urls", 0), "in/cat.jpg", "image", "a" * 64, 12, "image/jpeg")


def key_of(job: Job, *media: Media) -> str:
    return job_key(job.model_id, job.inputs, media or (PICTURE,), job.variant)


def key(inputs: dict[str, Any], variant: Any = None) -> str:
    return job_key("acme/painter", inputs, (), variant)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(inner) for name, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


def test_every_field_of_a_job_is_in_the_key_or_irrelevant_for_a_reason():
    fields = [field.name for field in dataclasses.fields(Job)]
    assert sorted(fields) == sorted([*IN_THE_KEY, *IRRELEVANT])
    for name, other in (IN_THE_KEY | IRRELEVANT).items():
        same = key_of(dataclasses.replace(JOB, **{name: other})) == key_of(JOB)
        assert same is (name in IRRELEVANT), name


def test_a_key_stays_the_same_over_versions_and_machines():
    # Should this fail, everything that was ever paid for would be paid for again.
    assert key_of(JOB) == "e04be145958e2904bd078e67b3037fd478e47b8a359a754a10d160975a4e3af4"


def test_media_count_by_content_and_place_and_not_by_name_or_size():
    renamed = dataclasses.replace(JOB, inputs={**JOB.inputs, "image_urls": ["https://x.y/z?a=b"]})
    moved = dataclasses.replace(
        PICTURE, origin="https://x.y/z?a=b", bytes=9, media_type="image/png"
    )
    other = dataclasses.replace(PICTURE, sha256="b" * 64)
    second = dataclasses.replace(other, pointer=("image_urls", 1))
    swapped = dataclasses.replace(PICTURE, pointer=("image_urls", 1))
    two = dataclasses.replace(JOB, inputs={"image_urls": ["1.jpg", "2.jpg"]})

    assert key_of(renamed, moved) == key_of(JOB)
    assert key_of(JOB, other) != key_of(JOB)
    assert key_of(two, PICTURE, second) == key_of(two, second, PICTURE)
    assert key_of(two, PICTURE, second) != key_of(two, other, swapped)


def test_values_that_differ_in_json_are_different_requests():
    values = [True, 1, 1.0, "1", "true", None, "null", "", [], [1], {"1": 1}]
    for wrap in (lambda v: key({"n": v}), lambda v: key({"n": [v]}), lambda v: key({}, v)):
        assert len({wrap(value) for value in values}) == len(values)
    assert key({}) not in {key({"n": value}) for value in values}
    assert key({"variant": 1}) != key({}, 1)


@given(OBJECTS, OBJECTS)
def test_two_requests_share_a_key_exactly_if_the_same_json_goes_out(
    one: dict[str, Any], other: dict[str, Any]
):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key(one) == key(other)) is same
    assert key(json.loads(json.dumps(one))) == key(one)
    assert key(one, one) == key(reordered(one), reordered(one))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan is not a number"),
        (-math.inf, "-inf is not a number"),
        (date(2026, 1, 2), "values of type date cannot be sent"),
        (b"x", "values of type bytes cannot be sent"),
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
