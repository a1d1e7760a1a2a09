"""From a file to its jobs: each rendered, and told by the place at which it was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.pipeline.output_names import colliding_names, output_name
from comfyline.pipeline.render import WrittenStep
from comfyline.yaml.file import load_yaml
from tests.pipeline.previews import preview

Write = Callable[..., Path]


def test_jobs_are_items_times_matrix_rendered_and_located(write: Write) -> None:
    plan = preview(write())
    job = plan.all_jobs[0]

    assert plan.problems == ()
    assert [job.label for job in plan.all_jobs] == [
        f"{item} · edit · {ratio} · {seed}"
        for item in ("A1", "B2")
        for ratio in ("1:1", "16:9")
        for seed in (1, 2)
    ]
    assert job.inputs == {"prompt": "a A1 in 1:1", "image_urls": ["a.jpg"], "seed": 1}
    assert job.settings == {"ratio": "1:1", "seed": 1}
    assert (job.pipeline, job.model_id, job.source) == ("portraits", "some/model", "p.yaml:10:3")
    assert job.placement.folder == "out/2026-01-31"
    assert output_name(job.placement, 0, "png") == "A1-1-1-1-edit-0.png"


def test_the_default_name_tells_all_outputs_apart(write: Write, pipeline_text: str) -> None:
    lines = [line for line in pipeline_text.splitlines() if not line.startswith("  name:")]
    plan = preview(write("\n".join(lines)))

    assert output_name(plan.all_jobs[2].placement, 1, "png") == "A1-16-9-1-edit-1.png"
    assert colliding_names(plan.all_jobs, lambda _: 3) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "{{ item.photo }}",
            "{{ item.foto }}",
            "p.yaml:14:20: there is no field `foto` (item A1 and 1 more item); did you mean",
        ),
        (
            '"{{ item.sku }}-{{ matrix.ratio }}',
            '"{{ item.skew }}',
            "p.yaml:18:3: there is no field `skew` (item A1 and 1 more item)",
        ),
    ],
)
def test_a_mistake_in_many_items_is_told_once(write: Write, old: str, new: str, told: str) -> None:
    plan = preview(write(**{old: new}))

    assert plan.all_jobs == ()
    [problem] = plan.problems
    assert str(problem).startswith(told)


def test_model_and_variant_may_be_templates(write: Write) -> None:
    text = "some/{{ item.sku|lower }}\n    variant: '{{ matrix.seed }}'"
    job = preview(write(**{"some/model": text})).all_jobs[1]

    assert (job.model_id, job.variant) == ("some/a1", 2)


@pytest.mark.parametrize("value", ["../x", "a/../../x"])
def test_an_items_value_cannot_lead_out_of_the_folder(write: Write, value: str) -> None:
    plan = preview(write(**{"sku: A1": f"sku: {value}", "{{ run.date }}": "{{ item.sku }}"}))

    assert "leads outside of the folder" in plan.problems[0].message
    assert {job.item for job in plan.all_jobs} == {"B2"}


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("out", ""),
        ("/data/out-{{ run.date }}/{{ item.sku }}", "/data"),
        ("out/{% if 1 %}a{% endif %}/b", "out"),
        ("{{ item.sku }}/edited", ""),
        ("file:///out/{{ item.sku }}", "file:///out"),
        ("s3://bucket/{{ item.sku }}", ""),
        ("out/{a}/{{ item.sku }}", "out/{a}"),
    ],
)
def test_the_root_of_a_folder_is_what_is_written_out_before_the_first_template(
    write: Write, folder: str, root: str
) -> None:
    plan = preview(write(**{"out/{{ run.date }}": f'"{folder}"'}))

    assert {job.placement.root for job in plan.all_jobs} == {root}


STEPS = """\
steps:
  edit:
    model: m
    input: &input
      prompt: a
      image_urls:
        - one.jpg
        - {url: two.jpg}
      options: {"a.b": 1, seed: 2}
      variant: fast
    variant: 3
    output: {to: here}
  again: {model: m, input: {<<: *input, prompt: b}}
output:
  to: out
  name: x
"""


@pytest.mark.parametrize(
    ("step", "field", "expected"),
    [
        ("edit", "image_urls[1]", "p.yaml:8:11: steps.edit.input.image_urls[1]"),
        ("edit", "image_urls[7]", "p.yaml:6:7: steps.edit.input.image_urls[7]"),
        ("edit", "options.seed", "p.yaml:9:27: steps.edit.input.options.seed"),
        ("edit", "aspect_ratio", "p.yaml:4:5: steps.edit.input.aspect_ratio"),
        ("edit", "model", "p.yaml:3:5: steps.edit.model"),
        ("edit", "variant", "p.yaml:10:7: steps.edit.input.variant"),
        ("edit", "output.to", "p.yaml:12:14: steps.edit.output.to"),
        ("edit", "output.name", "p.yaml:16:3: output.name"),
        ("again", "prompt", "p.yaml:13:41: steps.again.input.prompt"),
        ("again", "image_urls[0]", "p.yaml:7:11: steps.again.input.image_urls[0]"),
        ("gone", "prompt", "p.yaml:1:1: steps.gone.input.prompt"),
    ],
)
def test_a_field_is_told_with_its_place_and_its_path(
    write: Write, step: str, field: str, expected: str
) -> None:
    assert WrittenStep(load_yaml(write(STEPS)), step).where(field) == expected
