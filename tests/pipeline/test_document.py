"""What a pipeline's document may not say, each mistake with its place and a word on what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from comfyline.pipeline.document import PipelineDocument, load_pipeline

Write = Callable[..., Path]


def mistakes(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        load_pipeline(path, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  items:", "  table: x.csv\n  items:", "exactly one of `files`, `table` and `items`"),
        ("  items:", "  files: gs://b/*.jpg\n  items:", "p.yaml:3:3: `files` should be local, or "),
        ("  items:", "  files: '{{ x }}'\n  items:", "templates are not available here"),
        ("{{ item.photo }}", "{{ steps.edit.image }}", "in a circle: `edit` → `edit`"),
        ("{{ item.photo }}", "{{ steps }}", "p.yaml:14:20: a step has to be named after a dot"),
        ("{{ item.photo }}", "{{ env.HOME }}", "p.yaml:14:20: `env` has no `HOME`"),
        ("{{ item.photo }}", "{{ each }}", "it exists only in a step with `for_each`"),
        ("input:", "collect: true\n    input:", "a step that collects has no item"),
        ("input:", "for_each: [1]\n    collect: true\n    input:", "`collect` or `for_each`"),
        ("input:", "when: 3\n    input:", "`when` should be text"),
        ("output:", "limits: {timeout: soon}\noutput:", "should be a duration such as 90s, 30m,"),
        ("output:", "limits: {in_flight: true}\noutput:", "should be a whole number, not true"),
        ("output:", "limits: {max_cost_usd: -1}\noutput:", "should be at least 0, not -1"),
        ("name: portraits", "nmae: x", "p.yaml:1:1: unknown key `nmae`; did you mean `name`?"),
        ("name: portraits", "name: a/b", "p.yaml:1:1: `name` should be letters, digits"),
        ("  seed: [1", "  bad-name: [1", "p.yaml:8:3: `bad-name` should be letters, digits and"),
        ("[1, 2]", "[1, 1]", "p.yaml:8:3: `seed` lists a value twice"),
        ("[1, 2]", "[1, [2]]", "p.yaml:8:13: `seed` should contain text, numbers, true or false"),
        ("[1, 2]", "3", "p.yaml:8:3: `seed` should be a list, not a number (3)"),
        ("model: some/model", 'model: ""', "p.yaml:11:5: `model` should not be empty"),
        ("{{ item.sku }} in", "{{ sku }} in", "p.yaml:13:7: unknown name `sku`"),
        ('"{{ matrix.seed }}"', '"{{ matrix.sed }}"', "has no `sed`; did you mean `seed`?"),
        ("{{ run.date }}", "{{ run.dat }}", "p.yaml:17:3: `run` has no `dat`; did you mean"),
        ("{{ item.sku }} in", "{{ item.sku|uper }}", "no filter `uper` in templates; did you mean"),
        ("{{ item.sku }} in", "{{ [1]|random }}", "there is no filter `random`"),
    ],
)
def test_a_mistake_says_where_and_what(write: Write, old: str, new: str, expected: str) -> None:
    found = mistakes(write(**{old: new}))

    assert any(expected in one for one in found), found


def test_a_key_that_has_to_be_there_is_not_to_be_left_out(write: Write) -> None:
    [found] = mistakes(write(**{"model: some/model": "model:"}))

    assert found.startswith("p.yaml:11:5: `model` should be text, not nothing (null); model: The")


def test_a_mistake_behind_an_anchor_is_located_where_it_is_written(write: Write) -> None:
    path = write(**{"prompt:": "first: &text '{{ nope }}'\n      second: *text\n      prompt:"})

    assert [line.split(": ")[0] for line in mistakes(path)] == ["p.yaml:13:7", "p.yaml:14:7"]


def test_overrides_win_over_the_file_that_wins_over_its_base_and_are_checked(
    write: Write, pipeline_text: str
) -> None:
    Path("b.yaml").write_text(pipeline_text + "limits: {in_flight: 1, timeout: 1s}\n")
    path = write("extends: b.yaml\nlimits: {in_flight: 2, timeout: 2s}\n")

    limits = load_pipeline(path, ["limits.in_flight=4"]).document.limits

    assert (limits.in_flight, limits.timeout, limits.max_cost_usd) == (4, 2.0, None)
    [found] = mistakes(path, "limits.in_flight=0")
    assert found.startswith("--set limits.in_flight=0: `in_flight` should be at least 1, not 0")


def test_every_key_of_the_format_is_described() -> None:
    schema = PipelineDocument.model_json_schema()

    for part in (schema, *schema["$defs"].values()):
        assert all("description" in key for key in part["properties"].values())
