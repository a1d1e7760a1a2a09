from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import (
    GenerationFailed,
    InDoubt,
    Interrupted,
    NotBegun,
    OutputUnreachable,
    Skipped,
    Unreachable,
)
from comfyline.job import PENDING, Job, JobState, Placement
from comfyline.report.gallery import cards
from comfyline.report.summary import Charge, summarise
from comfyline.run import CostLimits, Outcome, Run


def outcome(key: str, state: JobState = JobState.PERSISTED, **more: object) -> Outcome:
    job = Job(
        pipeline="p",
        item=key,
        step="edit",
        model_id="m",
        inputs={"prompt": "x"},
        placement=Placement("out", "x", {}),
    )
    return Outcome(job=job, key=key, state=state, **more)  # type: ignore[arg-type]


@pytest.fixture
def run() -> Run:
    return Run(id="r1", pipeline="p", in_flight=1, timeout=1, costs=CostLimits(), refresh=False)


def test_what_failed_or_is_in_doubt_may_have_cost_as_well(run: Run) -> None:
    failed = outcome("b", JobState.FAILED, error=GenerationFailed("no", request_id="r"))
    charges = {
        "a": [Charge(0.14, 0.14)],
        "b": [Charge(0.10, 0.14), Charge(0.02, 0.14)],
        "c": [Charge(None, 0.14)],
    }

    summary = summarise(
        run, [outcome("a"), failed, outcome("c", JobState.IN_DOUBT)], 1, None, charges
    )

    assert summary.cost_usd == pytest.approx(0.26)
    assert summary.estimate_usd == pytest.approx(0.56)
    assert summary.cost_unknown == 1


ERRORS = st.none() | st.sampled_from(
    [
        GenerationFailed("no"),
        Skipped("it needs another"),
        NotBegun("it waits for another"),
        Unreachable("away"),
        OutputUnreachable("cut short", request_id="r"),
        Interrupted("stopped"),
        InDoubt("unheard"),
    ]
)
OUTCOMES = st.lists(
    st.builds(
        lambda state, error, reused: outcome("a", state, error=error, reused=reused),
        st.sampled_from(JobState),
        ERRORS,
        st.booleans(),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OUTCOMES)
def test_every_job_counts_exactly_once_whatever_became_of_it(
    run: Run, outcomes: list[Outcome]
) -> None:
    summary = summarise(run, outcomes, 1, None, {})
    counted = (summary.persisted, summary.reused, summary.failed, summary.cancelled)
    rest = (summary.in_doubt, summary.skipped, summary.unfinished)

    assert summary.jobs == len(outcomes) == sum(counted) + sum(rest)
    assert (summary.exit_code == 0) == (
        not summary.errors and summary.jobs == summary.persisted + summary.reused
    )


def test_what_waits_for_an_unfinished_job_is_unfinished_and_not_skipped(run: Run) -> None:
    states = {
        "skipped": outcome("a", JobState.PLANNED, error=Skipped("it needs a failed one")),
        "unfinished": outcome("b", JobState.PLANNED, error=NotBegun("it needs an unfinished one")),
    }

    for name, one in states.items():
        assert getattr(summarise(run, [one], 1, None, {}), name) == 1


def test_one_unknown_price_makes_the_estimate_unknown(run: Run) -> None:
    charges = {"a": [Charge(0.14, 0.14)], "b": [Charge(0.14, None)]}

    assert summarise(run, [outcome("a"), outcome("b")], 1, None, charges).estimate_usd is None


def test_what_was_there_already_costs_this_run_nothing(run: Run) -> None:
    there = outcome("a", reused=True, cost_usd=0.14)

    summary = summarise(run, [there], 1, None, {})
    [card] = cards([there], Path("thumbnails"), {})

    assert (summary.cost_usd, summary.estimate_usd, summary.cost_unknown) == (0, 0, 0)
    assert card.costs.words == "$0.14"


def test_of_two_jobs_with_one_key_the_first_has_paid() -> None:
    both = cards([outcome("a"), outcome("a")], Path("thumbnails"), {"a": [Charge(0.14, 0.14)]})

    assert [card.costs.words for card in both] == ["$0.14", ""]


def test_a_failure_that_was_charged_says_so_on_its_card() -> None:
    [card] = cards([outcome("a", JobState.FAILED)], Path("thumbnails"), {"a": [Charge(0.14, None)]})

    assert card.costs.words == "$0.14, estimate unknown"


def test_what_was_never_made_is_not_shown_as_a_setting(tmp_path: Path) -> None:
    skipped = outcome("a", JobState.PLANNED)
    inputs = {"images": [f"{PENDING}image:edit-0"], "aspect_ratio": "1:1"}
    skipped = replace(skipped, job=replace(skipped.job, inputs=inputs))

    [card] = cards([skipped], tmp_path, {})

    assert dict(card.settings) == {"aspect_ratio": "1:1"}
