"""Which part of a run a shard makes, and how what it came to is joined to the whole."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import GenerationFailed, InputInvalid, OverBudget, Problem, UsageError
from comfyline.job import Item, Job, JobState, Placement, Stage, StoredOutput
from comfyline.ledger.attempts import AttemptSummary
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.graph import Dag
from comfyline.plan.shards import (
    Shard,
    ShardResults,
    entry_of,
    how_many,
    parse_shard,
    shard_number,
)
from comfyline.report.summary import summarise
from comfyline.run import CostLimits, Outcome, Run
from tests.pipeline.previews import RUN

NAMES = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)
STEPS = st.lists(
    st.tuples(st.sampled_from(["", "true", "items"]), st.lists(st.integers(0, 4), max_size=2)),
    min_size=1,
    max_size=5,
)
"""Steps of a pipeline: whether each collects, and which of those before it each needs."""


def items(names: list[str]) -> list[Item]:
    return [Item(name, {"name": name}) for name in names]


@given(NAMES, st.integers(1, 9))
def test_every_item_is_in_exactly_one_shard_whatever_else_there_is(names: list[str], of: int):
    shards = [Shard(number, of) for number in range(1, of + 1)]

    found = [item.name for shard in shards for item in shard.items(items(names))]

    assert sorted(found) == sorted(names)
    for name in names:
        [alone] = [shard for shard in shards if shard.items(items([name]))]
        assert alone.number == shard_number(name, of)


def test_shards_are_about_equal():
    sizes = Counter(shard_number(f"photo-{number}", 8) for number in range(8000))
    assert all(900 < size < 1100 for size in sizes.values())
    # Workers of another version have to agree.
    assert [shard_number(name, 8) for name in ("cat", "dog", "\udc80")] == [4, 1, 2]


@given(st.integers(0, 500), NAMES, st.integers(1, 100))
def test_a_run_is_cut_into_shards_of_at_most_its_limit_on_average(
    jobs: int, names: list[str], limit: int
):
    of = how_many(jobs, items(names), limit, None)
    assert of == 1 if jobs <= limit else of * limit >= jobs or of == max(1, len(names))
    assert 1 <= of <= max(1, len(names))
    assert how_many(jobs, items(names), None, None) == 1
    assert how_many(jobs, items(names), limit, 3) == max(1, min(3, jobs, len(names)))


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1/0", "a/b", "1/3/5", "-1/3", "01/3"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(UsageError, match="Invalid shard"):
        parse_shard(text)


def test_a_shard_is_written_and_read():
    assert parse_shard(str(Shard(3, 8))) == Shard(3, 8)


def written(steps: list[tuple[str, list[int]]], count: int) -> str:
    lines = []
    for number, (collect, needs) in enumerate(steps):
        used = " ".join(f"{{{{ steps.s{one}.images }}}}" for one in needs if one < number)
        more = f", collect: {collect}" if collect else ""
        lines.append(f"  s{number}: {{model: m, input: {{p: '{used}'}}{more}}}")
    named = ", ".join(f"{{name: n{number}}}" for number in range(count))
    return (
        f"name: p\nsource: {{items: [{named}]}}\nmatrix: {{size: [1, 2]}}\nsteps:\n"
        + "\n".join(lines)
        + "\noutput: {to: out, name: x}\n"
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(1, 6), st.integers(1, 4))
def test_every_node_is_made_by_one_shard_or_needs_what_others_make(
    tmp_path: Path, steps: list[tuple[str, list[int]]], count: int, of: int
):
    path = tmp_path / "p.yaml"
    path.write_text(written(steps, count))
    pipeline, every = load_pipeline(path), items([f"n{number}" for number in range(count)])
    whole = Dag(pipeline, every, RUN)
    own_steps = set(whole.steps_of_items())
    collects = {f"s{number}" for number, (collect, _) in enumerate(steps) if collect}

    def needs_collected(step: str) -> bool:
        return step in collects or any(map(needs_collected, whole.steps_needed[step]))

    assert own_steps == {step for step in whole.order if not needs_collected(step)}
    made: Counter[tuple[str, str]] = Counter()
    for number in range(1, of + 1):
        part = Dag(pipeline, Shard(number, of).items(every), RUN, of_some_items=True)
        for node in part.nodes():
            made[node[0], part.item_name(node)] += 1
            # Whatever a node of a shard needs, the same shard makes.
            assert set(part.needs(node)) <= set(part.nodes())
            assert {step for step, _ in part.needs(node)} == {
                step for step, _ in whole.needs((node[0], 0))
            }
    assert made == Counter(
        (step, whole.item_name((step, one)))
        for step in own_steps
        for step, one in whole.nodes_of(step)
    )


JOB = Job("p", "cat", "edit", "m", {}, Placement("out", "x", {}))
STORED = StoredOutput(0, "file:///out/cat.png", "0" * 64, 1, "image/png")
MADE = Outcome(JOB, "k", JobState.PERSISTED, outputs=(STORED,), cost_usd=0.1, seconds=3.0)
THERE = replace(MADE, reused=True, seconds=None, cost_usd=0.1)


def results(*outcomes: Outcome, **more: Any) -> ShardResults:
    """What the run reads of its shards, after the ledger has had it."""
    entries = json.loads(json.dumps([entry_of(one) for one in outcomes]))
    told = {(entry["label"], entry["key"]): entry for entry in entries}
    return ShardResults(entries=told, of=2, steps=frozenset({"edit"}), **more)


def known(run_id: str) -> dict[str, AttemptSummary]:
    return {"k": AttemptSummary(JobState.PERSISTED, run_id, "p", datetime.now(UTC), "{}")}


def test_what_ended_badly_in_a_shard_ends_so_for_the_run_and_is_not_made_again():
    error = GenerationFailed("the model failed", hint="Look at it.", request_id="r-1")
    failed = Outcome(
        JOB, "k", JobState.FAILED, stage=Stage.POLL, error=error, request_id="r-1", seconds=2.0
    )

    found = results(failed).outcome(JOB, "k")

    assert found is not None
    assert type(found.error) is GenerationFailed
    assert str(found.error) == str(error)
    assert replace(found, error=error) == failed
    assert results(failed).has_told(failed)
    assert results(failed).outcome(replace(JOB, item="dog"), "k") is None
    # Its inputs are others since then: it is another job.
    assert results(failed).outcome(JOB, "other") is None


def test_an_input_that_was_wrong_leads_to_the_same_exit_code():
    wrong = Outcome(
        JOB, "", JobState.FAILED, stage=Stage.VALIDATE, error=InputInvalid([Problem("a", "no")])
    )
    found = results(wrong).outcome(JOB, "")
    run = Run(id="r", pipeline="p", in_flight=1, timeout=1, costs=CostLimits(), refresh=False)

    assert found
    assert summarise(run, [found], 1, None, {}).exit_code == 65


def test_what_a_shard_made_counts_as_made_by_the_run_and_all_else_as_there_already():
    assert results(MADE).outcome(JOB, "k") is None
    assert results(MADE).credited([THERE], known("another"), "run") == (MADE,)
    assert results().credited([THERE], known("another"), "run") == (THERE,)
    old = replace(THERE, is_old=True)
    assert results(MADE).credited([old], known("another"), "run") == (old,)


def test_what_a_shard_made_that_died_before_it_told_counts_once():
    twin = replace(THERE, job=replace(JOB, item="twin"))
    found = results().credited([THERE, twin], known("run"), "run")
    assert [one.reused for one in found] == [False, True]
    # Another shard has told which of the two it was.
    told = results(replace(MADE, job=twin.job)).credited([THERE, twin], known("run"), "run")
    assert [one.reused for one in told] == [True, False]
    collected = replace(THERE, job=replace(JOB, step="sheet"))
    assert results().credited([collected], known("run"), "run") == (collected,)


def test_the_jobs_of_a_cancelled_shard_are_left_out_and_no_others():
    number = shard_number("cat", 2)
    cancelled = results(cancelled=frozenset({number}))
    found = cancelled.outcome(JOB, "k")
    assert found
    assert (found.state, found.error and found.error.kind) == (JobState.PLANNED, "interrupted")
    assert cancelled.outcome(replace(JOB, step="sheet", item="all"), "k") is None
    assert results(cancelled=frozenset({3 - number})).outcome(JOB, "k") is None


def test_no_address_with_a_signature_is_written_down():
    error = OverBudget("https://host/x?X-Amz-Signature=abc", hint="https://host/y?token=abc")
    entry = entry_of(Outcome(JOB, "k", JobState.FAILED, error=error))
    assert "abc" not in json.dumps(entry)
