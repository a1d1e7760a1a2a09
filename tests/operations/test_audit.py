from dataclasses import replace
from datetime import timedelta

import pytest

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.operations.audit import Seen, differences, repeats
from tests.ledger.test_retention import NOW, paid

ENDED = NOW - timedelta(hours=5)


def attempt(
    number: int, state: JobState, *, cost: float | None = 0.14, after: float = 0
) -> Attempt:
    """The n-th attempt of one job: claimed so many hours after `ENDED`, ended at `ENDED`."""
    one = paid(timedelta(days=6), state)
    claimed = ENDED + timedelta(hours=after)
    return replace(
        one,
        id=number,
        number=number,
        request_id=f"request-{number}",
        cost_usd=cost,
        claimed_at=claimed,
        reached={state: ENDED},
    )


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (JobState.PERSISTED, "refresh"),
        (JobState.EXPIRED, "lost"),
        (JobState.FAILED, "asked for again"),
        (JobState.CANCELLED, "asked for again"),
    ],
)
def test_a_second_charge_after_an_end_was_asked_for(first: JobState, reason: str):
    explained, alarming = repeats([attempt(1, first), attempt(2, JobState.PERSISTED, after=1)])

    assert alarming == []
    assert reason in explained[0].message


@pytest.mark.parametrize(
    "first", [JobState.SUBMITTED, JobState.IN_PROGRESS, JobState.IN_QUEUE, JobState.COMPLETED]
)
def test_a_second_charge_beside_one_that_is_under_way_is_an_alarm(first: JobState):
    explained, alarming = repeats([attempt(1, first), attempt(2, JobState.PERSISTED, after=1)])

    assert explained == []
    assert [one.kind for one in alarming] == ["charged-twice"]


def test_a_second_post_before_the_end_of_the_first_is_an_alarm():
    both = [attempt(1, JobState.PERSISTED), attempt(2, JobState.PERSISTED, after=-1)]

    assert [one.kind for one in repeats(both)[1]] == ["charged-twice"]


def test_what_cost_nothing_is_no_charge():
    free = attempt(1, JobState.FAILED, cost=0.0), attempt(1, JobState.CANCELLED, cost=None)

    for first in free:
        assert repeats([first, attempt(2, JobState.PERSISTED, after=1)]) == ([], [])


@pytest.mark.parametrize("cost", [0.14, None])
def test_what_was_rejected_here_was_made_there_and_charged_for_that(cost: float | None):
    rejected = replace(attempt(1, JobState.FAILED, cost=cost), error_kind="rejected")
    seen = [Seen(rejected, asked=True, charge_usd=cost)]

    explained, alarming = repeats([rejected, attempt(2, JobState.PERSISTED, after=1)])

    assert alarming == []
    assert "was rejected by the step's checks" in explained[0].message
    kinds = [one.kind for one in differences(seen)]
    assert kinds == ([] if cost else ["cost-unknown"])
