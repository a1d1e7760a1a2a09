import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import (
    ComfylineError,
    GenerationFailed,
    InDoubt,
    Interrupted,
    NotBegun,
    OutputUnreachable,
    Skipped,
    Unreachable,
)
from comfyline.job import Job, JobState, Placement
from comfyline.report.summary import (
    Charge,
    ErrorRecord,
    OutputRecord,
    RunSummary,
    cost_in_words,
    error_groups,
    exit_code,
    headline,
    summarise,
    summary_of_days,
    total,
)
from comfyline.run import CostLimits, Outcome, Run

DOLLARS = st.none() | st.floats(0, 1000)
RUN = Run(id="r1", pipeline="p", in_flight=1, timeout=1, costs=CostLimits(), refresh=False)


def failure(
    kind: str = "generation-failed", item: str = "cat", message: str = "It failed", hint: str = ""
) -> ErrorRecord:
    return ErrorRecord(job="k", item=item, stage="poll", kind=kind, message=message, hint=hint)


def summary(*kinds: str, **changes: Any) -> RunSummary:
    zeros = ("jobs", "persisted", "reused", "failed", "cancelled", "in_doubt", "submitted")
    fields = {"run_id": "r1", "pipeline": "office", "cost_usd": 0.0, "seconds": 0.0}
    errors = tuple(map(failure, kinds))
    return RunSummary.model_validate(
        fields | dict.fromkeys(zeros, 0) | {"errors": errors} | changes
    )


def outcome(key: str, state: JobState = JobState.PERSISTED, **more: Any) -> Outcome:
    job = Job("p", key, "edit", "m", {"prompt": "x"}, Placement("out", "x", {}))
    return Outcome(job=job, key=key, state=state, **more)


def test_json_has_exactly_the_promised_fields_in_their_order_on_one_line() -> None:
    output = OutputRecord(
        job="k", item="cat", step="edit", index=0,
        uri="file:///o/cat.png", sha256="ab", bytes=3, media_type="image/png",
    )  # fmt: skip
    secret = "a\nGET https://b.s3/x y.png?X-Amz-Signature=5 said 403"
    errors = (failure(message=secret, item="caf\udce9"),)

    text = summary(
        jobs=1, outputs=(output,), errors=errors, cost_usd=0.1 + 0.2, seconds=41.23456
    ).to_json()
    document = json.loads(text)

    assert "\n" not in text
    assert "X-Amz" not in text
    assert list(document) == [
        "run_id", "pipeline", "jobs", "persisted", "reused", "failed", "cancelled", "in_doubt",
        "submitted", "skipped", "unfinished", "cost_usd", "estimate_usd", "cost_unknown", "seconds",
        "report", "index", "outputs", "errors",
    ]  # fmt: skip
    assert list(document["outputs"][0]) == [
        "job", "item", "step", "index", "uri", "sha256", "bytes", "media_type",
    ]  # fmt: skip
    assert list(document["errors"][0]) == [
        "job", "item", "stage", "kind", "message", "request_id", "hint",
    ]  # fmt: skip
    assert (document["cost_usd"], document["seconds"], document["report"]) == (0.3, 41.2, None)


@pytest.mark.parametrize(
    ("charges", "amount", "remarks"),
    [
        ([], "$0.00", ""),
        ([Charge(0.0, 0.0)], "$0.00", ""),
        ([Charge(0.14, 0.14)], "$0.14", ""),
        ([Charge(0.14, 0.12)], "$0.14", ", estimated $0.12"),
        ([Charge(0.14, None)], "$0.14", ", estimate unknown"),
        ([Charge(None, 0.14)], "unknown", ", estimated $0.14"),
        ([Charge(None, None)] * 2, "unknown", ", estimate unknown"),
        (
            [Charge(0.14, 0.14), Charge(None, 0.14)],
            "$0.14",
            ", unknown for 1 of 2, estimated $0.28",
        ),
    ],
)
def test_a_cost_is_said_beside_an_estimate_that_was_wrong_and_unknown_is_never_nought(
    charges: list[Charge], amount: str, remarks: str
) -> None:
    costs = total(charges)
    run = summary(
        submitted=len(charges),
        cost_usd=costs.cost_usd,
        cost_unknown=costs.unknown,
        estimate_usd=costs.estimate_usd,
    )

    assert costs.words == f"{amount}{remarks}"
    many = f"for {len(charges)} submission{'s' * (len(charges) != 1)}"
    assert cost_in_words(run) == (amount, f"{many}{remarks}")


@given(st.lists(st.builds(Charge, DOLLARS, DOLLARS)))
def test_what_is_unknown_is_counted_and_not_added(charges: list[Charge]) -> None:
    costs = total(charges)

    assert costs.unknown == sum(charge.cost_usd is None for charge in charges)
    assert costs.cost_usd == pytest.approx(sum(charge.cost_usd or 0 for charge in charges))
    assert (costs.estimate_usd is None) == any(c.estimate_usd is None for c in charges)
    if costs.unknown and costs.unknown == costs.requests:
        assert costs.words.startswith("unknown")


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], 0),
        (["generation-failed", "refused", "in-doubt"], 1),
        (["input-invalid", "input-invalid"], 65),
        (["unreachable"], 69),
        (["unreachable", "not-begun"], 69),
        (["try-later", "deadline"], 75),
        (["token"], 77),
        (["token", "refused"], 1),
        (["deadline", "unreachable"], 1),
        (["a kind of tomorrow"], 1),
    ],
)
def test_exit_code_is_the_one_all_errors_share_and_otherwise_1(
    kinds: list[str], expected: int
) -> None:
    assert exit_code(kinds) == expected


def test_every_error_of_the_project_leads_to_its_own_exit_code() -> None:
    def derived(error: type[ComfylineError]) -> Iterator[type[ComfylineError]]:
        yield error
        for child in error.__subclasses__():
            yield from derived(child)

    for error in derived(ComfylineError):
        assert exit_code([error.kind]) == error.exit_code


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (summary(jobs=1, failed=1), 1),
        (summary(jobs=2, persisted=1), 1),
        (summary(jobs=2, persisted=1, reused=1), 0),
        (summary("token", jobs=1, failed=1), 77),
        # Only a run that has stored nothing found nothing to reach.
        (summary("unreachable", jobs=2, reused=1, unfinished=1), 69),
        (summary("unreachable", jobs=2, persisted=1, unfinished=1), 1),
        (summary("output-unreachable", jobs=1, unfinished=1), 1),
    ],
)
def test_a_job_without_outputs_is_never_reported_as_all_there(run: RunSummary, code: int) -> None:
    assert run.exit_code == code


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (summary(), "0 jobs: nothing to make"),
        (summary(jobs=1, persisted=1), "1 job: 1 persisted"),
        (
            summary("refused", "generation-failed", jobs=10, persisted=8, failed=2),
            "10 jobs: 8 persisted, 2 failed (refused: 1, generation-failed: 1)",
        ),
        (
            summary(
                "cancelled", "in-doubt", jobs=5, reused=2, cancelled=1, in_doubt=1, unfinished=1
            ),
            "5 jobs: 2 reused, 1 cancelled, 1 in doubt, 1 not finished",
        ),
        # A deadline that ran out is never counted among the failures.
        (
            summary(
                "refused", "deadline", "deadline", "unreachable", jobs=4, failed=1, unfinished=3
            ),
            "4 jobs: 1 failed (refused: 1), 3 not finished (deadline: 2, unreachable: 1)",
        ),
    ],
)
def test_headline_says_how_many_and_why(run: RunSummary, said: str) -> None:
    assert headline(run) == said


def test_errors_are_grouped_by_kind_and_a_shared_message_is_told_once() -> None:
    alike, differing = error_groups(
        [
            *(failure(item=f"cat-{n}", hint="Ask again") for n in range(13)),
            failure("refused", item="a", message="one"),
            failure("refused", item="b", message="two"),
        ]
    )

    assert (alike.kind, alike.jobs, alike.hints) == ("generation-failed", 13, ("Ask again",))
    assert alike.lines[0] == "It failed"
    assert alike.lines[1].endswith("cat-8, cat-9 and 3 more")
    assert differing.lines == ("a: one", "b: two")


def test_what_failed_or_is_in_doubt_may_have_cost_as_well() -> None:
    failed = outcome("b", JobState.FAILED, error=GenerationFailed("no", request_id="r"))
    charges = {
        "a": [Charge(0.14, 0.14)],
        "b": [Charge(0.10, 0.14), Charge(0.02, 0.14)],
        "c": [Charge(None, 0.14)],
    }
    outcomes = [outcome("a"), failed, outcome("c", JobState.IN_DOUBT)]

    made = summarise(RUN, outcomes, 1, None, charges)

    assert made.cost_usd == pytest.approx(0.26)
    assert made.estimate_usd == pytest.approx(0.56)
    assert made.cost_unknown == 1


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


@given(
    st.lists(
        st.builds(
            lambda state, error, reused: outcome("a", state, error=error, reused=reused),
            st.sampled_from(JobState),
            ERRORS,
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_every_job_counts_exactly_once_whatever_became_of_it(outcomes: list[Outcome]) -> None:
    made = summarise(RUN, outcomes, 1, None, {})
    counted = (made.persisted, made.reused, made.failed, made.cancelled)
    rest = (made.in_doubt, made.skipped, made.unfinished)

    assert made.jobs == len(outcomes) == sum(counted) + sum(rest)
    assert (made.exit_code == 0) == (not made.errors and made.jobs == made.persisted + made.reused)


@pytest.mark.parametrize(
    ("error", "name"), [(Skipped("a"), "skipped"), (NotBegun("a"), "unfinished")]
)
def test_what_waits_for_an_unfinished_job_is_unfinished_and_not_skipped(
    error: ComfylineError, name: str
) -> None:
    waiting = outcome("a", JobState.PLANNED, error=error)

    assert getattr(summarise(RUN, [waiting], 1, None, {}), name) == 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 2))
def test_several_days_are_summed_and_those_that_were_not_begun_are_named(
    made: list[int], more: int
) -> None:
    days = [date(2026, 11, 1) + timedelta(days=passed) for passed in range(len(made) + more)]
    runs = [
        summary(jobs=number + 1, persisted=number, cost_usd=number * 0.5, run_id=str(number))
        for number in made
    ]

    together = json.loads(summary_of_days(days, runs).to_json())

    assert together["jobs"] == sum(made) + len(made)
    assert together["persisted"] == sum(made)
    assert together["cost_usd"] == pytest.approx(sum(made) * 0.5)
    assert [day["run_id"] for day in together["days"]] == [str(number) for number in made]
    assert [day["date"] for day in together["days"]] + together["not_begun"] == [*map(str, days)]
