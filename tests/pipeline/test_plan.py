from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.pipeline.output_names import colliding_names, output_name
from tests.pipeline.previews import preview

Write = Callable[..., Path]


def test_jobs_are_items_times_matrix_and_the_last_name_varies_fastest(write: Write) -> None:
    plan = preview(write())

    assert plan.problems == ()
    assert [job.label for job in plan.all_jobs] == [
        "A1 · edit · 1:1 · 1",
        "A1 · edit · 1:1 · 2",
        "A1 · edit · 16:9 · 1",
        "A1 · edit · 16:9 · 2",
        "B2 · edit · 1:1 · 1",
        "B2 · edit · 1:1 · 2",
        "B2 · edit · 16:9 · 1",
        "B2 · edit · 16:9 · 2",
    ]


def test_a_job_is_rendered_and_knows_where_it_was_written(write: Write) -> None:
    job = preview(write()).all_jobs[0]

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


def test_a_mistake_in_many_items_is_told_once(write: Write) -> None:
    plan = preview(write(**{"{{ item.photo }}": "{{ item.foto }}"}))

    assert plan.all_jobs == ()
    assert [str(problem) for problem in plan.problems] == [
        "p.yaml:14:20: there is no field `foto` (item A1 and 1 more item); did you mean `photo`?"
    ]


def test_a_mistake_in_the_output_name_is_found_in_the_plan(write: Write) -> None:
    plan = preview(write(**{'"{{ item.sku }}-{{ matrix.ratio }}': '"{{ item.skew }}'}))

    assert str(plan.problems[0]).startswith("p.yaml:18:3: there is no field `skew`")


def test_model_and_variant_may_be_templates(write: Write) -> None:
    text = "some/{{ item.sku|lower }}\n    variant: '{{ matrix.seed }}'"
    job = preview(write(**{"some/model": text})).all_jobs[1]

    assert (job.model_id, job.variant) == ("some/a1", 2)


@pytest.mark.parametrize("value", ["../x", "a/../../x"])
def test_an_items_value_cannot_lead_out_of_the_folder(write: Write, value: str) -> None:
    plan = preview(write(**{"sku: A1": f"sku: {value}", "{{ run.date }}": "{{ item.sku }}"}))

    assert "leads outside of the folder" in plan.problems[0].message
    assert {job.item for job in plan.all_jobs} == {"B2"}


def test_the_pipeline_that_comes_along_plans_ten_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])

    plan = preview(Path("configs/pipelines/office-scenes.yaml"))

    assert (len(plan.all_jobs), plan.problems) == (10, ())
    assert colliding_names(plan.all_jobs, lambda _: 1) == []
    assert output_name(plan.all_jobs[0].placement, 0, "png") == "astronaut-1-1-edit-0.png"


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("out", ""),
        ("out/{{ item.sku }}", "out"),
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
