from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import NotBegun, Refused, Unreachable
from comfyline.job import Job, JobState, StoredOutput
from comfyline.plan.schedule import Ready, Schedule
from comfyline.run import Outcome
from tests.pipeline.previews import graph_of, preview

CHAIN = """\
name: p
source: {items: [{name: a}, {name: b}, {name: c}]}
steps:
  edit: {model: m, input: {n: "{{ item.name }}"}}
  more: {model: m, for_each: "{{ steps.edit.images }}", input: {image: "{{ each }}"}}
  sum: {model: m, collect: true, input: {images: "{{ steps.more.images }}"}}
output: {to: out}
"""


@pytest.fixture
def schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Schedule]:
    monkeypatch.chdir(tmp_path)

    def unfold(text: str) -> Schedule:
        Path("p.yaml").write_text(text)
        path = Path("p.yaml")
        return Schedule(graph_of(path), preview(path).jobs)

    return unfold


def made(job: Job, *names: str) -> Outcome:
    outputs = tuple(
        StoredOutput(index, f"s3://b/{name}.png", "0" * 64, 1, "image/png")
        for index, name in enumerate(names or (f"{job.item}-{job.step}-{job.part}",))
    )
    return Outcome(job, "k", JobState.PERSISTED, outputs=outputs)


def failed(job: Job) -> Outcome:
    return Outcome(job, "k", JobState.FAILED, error=Refused("no"))


def labels(jobs: tuple[Job, ...]) -> list[str]:
    return [job.label for job in jobs]


def by_label(new: Ready) -> dict[str, Job]:
    return {job.label: job for job in new.jobs}


def test_a_job_can_begin_as_soon_as_its_own_inputs_are_there(
    schedule: Callable[[str], Schedule],
) -> None:
    run = schedule(CHAIN)
    first = by_label(run.begin())

    new = run.ended(made(first["b · edit"], "x", "y"))

    assert labels(new.jobs) == ["b · more · 1", "b · more · 2"]
    assert [job.inputs for job in new.jobs] == [
        {"image": "s3://b/x.png"},
        {"image": "s3://b/y.png"},
    ]
    assert labels(run.waiting()) == ["a · more · 1", "c · more · 1", "all · sum"]
    assert run.jobs == 8


def test_a_failed_job_takes_with_it_what_depends_on_it_and_nothing_else(
    schedule: Callable[[str], Schedule],
) -> None:
    run = schedule(CHAIN)
    first = by_label(run.begin())

    lost = run.ended(failed(first["a · edit"]))

    assert labels(lost.jobs) == []
    told = {one.job.label: str(one.error) for one in lost.outcomes}
    assert list(told) == ["a · more · 1", "all · sum"]
    assert "`a · edit`" in told["a · more · 1"]
    assert "`a · more · 1`" in told["all · sum"]
    assert {one.state for one in lost.outcomes} == {JobState.PLANNED}
    assert labels(run.ended(made(first["b · edit"])).jobs) == ["b · more · 1"]


def test_a_template_that_fails_on_real_outputs_fails_its_job(
    schedule: Callable[[str], Schedule],
) -> None:
    run = schedule(CHAIN.replace("{images: ", "{third: '{{ steps.more.images[2] }}', images: "))
    first = run.begin().jobs
    second = [job for one in first[:2] for job in run.ended(made(one)).jobs]
    run.ended(Outcome(first[2], "k", JobState.PERSISTED))

    last = [run.ended(made(one)) for one in second][-1]

    [outcome] = last.outcomes
    assert (outcome.job.label, outcome.state) == ("all · sum", JobState.FAILED)
    assert str(outcome.error).endswith("the list has no entry 2; it has 2, counted from 0")


def test_a_list_that_turns_out_empty_is_no_failure(schedule: Callable[[str], Schedule]) -> None:
    run = schedule(CHAIN)
    first = run.begin().jobs

    new = [run.ended(Outcome(job, "k", JobState.PERSISTED)) for job in first]

    assert all(not one.jobs and not one.outcomes for one in new)
    assert run.waiting() == ()


def test_a_placeholder_that_is_wrong_is_given_up_and_its_dependents_with_it(
    schedule: Callable[[str], Schedule],
) -> None:
    run = schedule(CHAIN)
    run.begin()
    [wrong] = [job for job in run.waiting() if job.label == "c · more · 1"]

    assert run.give_up([wrong]) == (wrong,)
    assert [one.job.label for one in run.ended(failed(wrong)).outcomes] == ["all · sum"]


def test_local_outputs_are_handed_on_as_paths(schedule: Callable[[str], Schedule]) -> None:
    run = schedule(CHAIN)
    first = run.begin().jobs[0]
    output = StoredOutput(0, "file:///a%20b/x.png", "0" * 64, 1, "image/png")

    [job] = run.ended(Outcome(first, "k", JobState.PERSISTED, outputs=(output,))).jobs

    assert job.inputs == {"image": "/a b/x.png"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), failing=st.integers(0, 8))
def test_in_any_order_every_job_ends_once(
    schedule: Callable[[str], Schedule], order: Random, failing: int
) -> None:
    run = schedule(CHAIN)
    ready, ended = list(run.begin().jobs), list[Job]()
    skipped: list[Job] = []

    def one_after_the_other() -> Iterator[Outcome]:
        while ready:
            job = ready.pop(order.randrange(len(ready)))
            ended.append(job)
            yield failed(job) if len(ended) == failing else made(job)

    for outcome in one_after_the_other():
        new = run.ended(outcome)
        ready += new.jobs
        skipped += [one.job for one in new.outcomes]

    every = [f"{item} · {step}" for item in "abc" for step in ("edit", "more · 1")]
    assert sorted(labels((*ended, *skipped))) == sorted([*every, "all · sum"])
    assert bool(skipped) is (1 <= failing <= 6)
    positions = [run.position(job) for job in (*ended, *skipped)]
    assert len(set(positions)) == len(positions)


def test_what_needs_an_unfinished_job_waits_and_is_not_skipped(
    schedule: Callable[[str], Schedule],
) -> None:
    run = schedule(CHAIN)
    first = run.begin().jobs[0]

    left = run.ended(Outcome(first, "k", JobState.PLANNED, error=Unreachable("away"))).outcomes

    assert left
    assert {(type(one.error), one.state) for one in left} == {(NotBegun, JobState.PLANNED)}
    assert f"It needs `{first.label}`, which is not finished" in str(left[0].error)
