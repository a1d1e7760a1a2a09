import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import ComfylineError
from comfyline.report.summary import (
    Charge,
    Costs,
    ErrorRecord,
    OutputRecord,
    RunSummary,
    cost_in_words,
    exit_code,
    headline,
    total,
    troubles,
)

DOLLARS = st.none() | st.floats(0, 1000)


def failure(
    kind: str = "generation-failed", item: str = "cat", message: str = "It failed", hint: str = ""
):
    return ErrorRecord(job="k", item=item, stage="poll", kind=kind, message=message, hint=hint)


def summary(**changes: Any):
    fields = {
        "run_id": "r1",
        "pipeline": "office",
        "jobs": 0,
        "persisted": 0,
        "reused": 0,
        "failed": 0,
        "cancelled": 0,
        "in_doubt": 0,
        "submitted": 0,
        "cost_usd": 0.0,
        "seconds": 0.0,
    }
    return RunSummary.model_validate(fields | changes)


def test_json_has_exactly_the_promised_fields_in_their_order_on_one_line():
    output = OutputRecord(
        job="k", item="cat", step="edit", index=0,
        uri="file:///o/cat.png", sha256="ab", bytes=3, media_type="image/png",
    )  # fmt: skip

    text = summary(jobs=1, outputs=(output,), errors=(failure(message="a\nb"),)).to_json()
    document = json.loads(text)

    assert "\n" not in text
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
    assert document["errors"][0]["request_id"] is None
    assert document["report"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ("$0.00", "for 0 submissions")),
        ({"submitted": 1, "cost_usd": 0.14, "estimate_usd": 0.14}, ("$0.14", "for 1 submission")),
        (
            {"submitted": 10, "cost_usd": 1.4, "estimate_usd": 1.26},
            ("$1.40", "for 10 submissions, estimated $1.26"),
        ),
        (
            {"submitted": 10, "cost_usd": 1.12, "cost_unknown": 2, "estimate_usd": 1.4},
            ("$1.12", "for 10 submissions, unknown for 2 of them, estimated $1.40"),
        ),
        (
            {"submitted": 2, "cost_unknown": 2, "estimate_usd": None},
            ("unknown", "for 2 submissions, estimate unknown"),
        ),
        (
            {"submitted": 2, "cost_usd": 0.3, "estimate_usd": None},
            ("$0.30", "for 2 submissions, estimate unknown"),
        ),
        ({"submitted": 1, "estimate_usd": 0.0}, ("$0.00", "for 1 submission")),
    ],
)
def test_the_cost_is_said_beside_the_estimate_and_unknown_is_never_nought(
    changes: dict[str, Any], said: tuple[str, str]
):
    assert cost_in_words(summary(**changes)) == said


def test_sums_of_cents_are_printed_without_the_noise_of_binary_fractions():
    document = json.loads(summary(cost_usd=0.1 + 0.2, seconds=41.23456).to_json())

    assert document["cost_usd"] == 0.3
    assert document["seconds"] == 41.2


def test_a_file_name_that_is_not_utf8_does_not_cost_the_summary():
    assert json.loads(summary(errors=(failure(item="caf\udce9"),)).to_json())


def test_a_presigned_url_in_a_message_loses_its_query():
    text = summary(
        errors=(failure(message="GET https://b.s3/x y.png?X-Amz-Signature=5 said 403"),)
    ).to_json()

    assert "X-Amz" not in text
    assert "said 403" in text


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], 0),
        (["generation-failed", "refused", "in-doubt"], 1),
        (["input-invalid", "input-invalid"], 65),
        (["unreachable"], 69),
        (["try-later", "deadline"], 75),
        (["token"], 77),
        (["token", "refused"], 1),
        (["deadline", "unreachable"], 1),
        (["a kind of tomorrow"], 1),
    ],
)
def test_exit_code_is_the_one_all_errors_share_and_otherwise_1(kinds: list[str], expected: int):
    assert exit_code(kinds) == expected


def test_every_error_of_the_project_leads_to_its_own_exit_code():
    def derived(error: type[ComfylineError]) -> Iterator[type[ComfylineError]]:
        yield error
        for child in error.__subclasses__():
            yield from derived(child)

    for error in derived(ComfylineError):
        assert exit_code([error.kind]) == error.exit_code


def test_a_job_without_outputs_and_without_an_error_is_not_reported_as_all_there():
    assert summary(jobs=1, failed=1).exit_code == 1
    assert summary(jobs=2, persisted=1).exit_code == 1
    assert summary(jobs=2, persisted=1, reused=1).exit_code == 0
    assert summary(jobs=1, failed=1, errors=(failure(kind="token"),)).exit_code == 77


def test_only_a_run_that_has_stored_nothing_found_nothing_to_reach():
    away = (failure("unreachable"),)

    assert summary(jobs=1, unfinished=1, errors=away).exit_code == 69
    assert summary(jobs=2, reused=1, unfinished=1, errors=away).exit_code == 69
    assert summary(jobs=2, persisted=1, unfinished=1, errors=away).exit_code == 1
    lost = (failure("output-unreachable"),)
    assert summary(jobs=1, unfinished=1, errors=lost).exit_code == 1


def test_what_waits_for_an_unfinished_job_says_nothing_of_why():
    errors = (failure("unreachable"), failure("not-begun"))

    assert exit_code(error.kind for error in errors) == 69
    assert headline(summary(jobs=2, unfinished=2, errors=errors)) == (
        "2 jobs: 2 not finished (unreachable: 1, not-begun: 1)"
    )


def test_headline_says_how_many_and_why():
    errors = (failure("refused"), failure("generation-failed"))

    assert headline(summary(jobs=10, persisted=8, failed=2, errors=errors)) == (
        "10 jobs: 8 persisted, 2 failed (refused: 1, generation-failed: 1)"
    )


def test_headline_counts_what_is_cancelled_in_doubt_or_not_finished_once():
    errors = (failure("cancelled"), failure("in-doubt"))
    stopped = summary(jobs=5, reused=2, cancelled=1, in_doubt=1, unfinished=1, errors=errors)

    assert headline(stopped) == ("5 jobs: 2 reused, 1 cancelled, 1 in doubt, 1 not finished")


def test_a_deadline_that_ran_out_is_not_finished_and_never_counted_among_the_failures():
    errors = (failure("refused"), failure("deadline"), failure("deadline"), failure("unreachable"))

    assert headline(summary(jobs=5, persisted=1, failed=1, unfinished=3, errors=errors)) == (
        "5 jobs: 1 persisted, 1 failed (refused: 1), 3 not finished (deadline: 2, unreachable: 1)"
    )
    waiting = summary(jobs=1, unfinished=1, errors=(failure("deadline"),))
    assert headline(waiting) == "1 job: 1 not finished (deadline: 1)"
    assert waiting.exit_code == 75


def test_headline_of_one_job_and_of_none_reads_as_english():
    assert headline(summary(jobs=1, persisted=1)) == "1 job: 1 persisted"
    assert headline(summary()) == "0 jobs: nothing to make"


def test_a_message_that_all_share_is_told_once_with_at_most_ten_items():
    (trouble,) = troubles(failure(item=f"cat-{n}", hint="Ask again") for n in range(13))

    assert trouble.jobs == 13
    assert trouble.lines[0] == "It failed"
    assert trouble.lines[1].endswith("cat-8, cat-9 and 3 more")
    assert trouble.hints == ("Ask again",)


def test_messages_that_differ_stand_with_their_items():
    (trouble,) = troubles([failure(item="a", message="one"), failure(item="b", message="two")])

    assert trouble.lines == ("a: one", "b: two")


def test_errors_are_told_by_kind_in_the_order_they_came_up():
    told = troubles([failure("refused"), failure("token"), failure("refused")])

    assert [(trouble.kind, trouble.jobs) for trouble in told] == [("refused", 2), ("token", 1)]


@pytest.mark.parametrize(
    ("charges", "said"),
    [
        ([], ""),
        ([Charge(0.14, 0.14)], "$0.14"),
        ([Charge(0.0, 0.0)], "$0.00"),
        ([Charge(0.14, 0.12)], "$0.14, estimated $0.12"),
        ([Charge(0.14, None)], "$0.14, estimate unknown"),
        ([Charge(None, 0.14)], "unknown, estimated $0.14"),
        ([Charge(None, None)], "unknown, estimate unknown"),
        ([Charge(0.14, 0.14), Charge(None, 0.14)], "$0.14, unknown for 1 of 2, estimated $0.28"),
    ],
)
def test_a_cost_is_said_beside_its_estimate_where_the_two_differ(
    charges: list[Charge], said: str
) -> None:
    assert total(charges).words == said


@given(st.lists(st.builds(Charge, DOLLARS, DOLLARS)))
def test_what_is_unknown_is_counted_and_not_added(charges: list[Charge]) -> None:
    costs = total(charges)

    assert costs.unknown == sum(charge.cost_usd is None for charge in charges)
    assert costs.cost_usd == pytest.approx(sum(charge.cost_usd or 0 for charge in charges))
    assert (costs.estimate_usd is None) == any(c.estimate_usd is None for c in charges)
    if costs.unknown and costs.unknown == costs.requests:
        assert costs.words.startswith("unknown")


def test_nothing_asked_for_costs_nothing() -> None:
    assert total([]) == Costs()
