"""Which charges for one job were asked for, and which nobody can explain."""

from dataclasses import replace
from datetime import timedelta

import pytest

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.operations.audit import Seen, differences, repeats
from tests.ledger.test_retention import NOW, paid

ENDED = NOW - timedelta(hours=5)


def attempt(
    number: int, state: str, *, cost: float | None = 0.14, after: float = 0, kind: str | None = None
) -> Attempt:
    """The n-th attempt of one job: claimed so many hours after `ENDED`, ended at `ENDED`."""
    return replace(
        paid(timedelta(days=6), JobState(state)),
        id=number,
        number=number,
        request_id=f"request-{number}",
        cost_usd=cost,
        claimed_at=ENDED + timedelta(hours=after),
        reached={JobState(state): ENDED},
        error_kind=kind,
    )


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (attempt(1, "persisted"), "refresh"),
        (attempt(1, "expired"), "lost"),
        (attempt(1, "failed"), "submitted again"),
        (attempt(1, "cancelled"), "submitted again"),
        (attempt(1, "failed", kind="rejected"), "rejected by the step's checks"),
        (attempt(1, "failed", kind="rejected", cost=None), "rejected by the step's checks"),
        (attempt(1, "failed", kind="given-up"), "was given up"),
    ],
)
def test_a_second_charge_after_an_end_was_asked_for(first: Attempt, reason: str):
    explained, alarming = repeats([first, attempt(2, "persisted", after=1)])

    assert alarming == []
    assert reason in explained[0].message


@pytest.mark.parametrize(
    ("first", "after"),
    [
        ("submitted", 1),
        ("in_progress", 1),
        ("in_queue", 1),
        ("completed", 1),
        # The second POST left before the first had ended.
        ("persisted", -1),
    ],
)
def test_a_second_charge_beside_one_that_is_under_way_is_an_alarm(first: str, after: float):
    explained, alarming = repeats([attempt(1, first), attempt(2, "persisted", after=after)])

    assert explained == []
    assert [one.kind for one in alarming] == ["charged-twice"]


def test_what_cost_nothing_is_no_charge():
    for free in (attempt(1, "failed", cost=0.0), attempt(1, "cancelled", cost=None)):
        assert repeats([free, attempt(2, "persisted", after=1)]) == ([], [])


@pytest.mark.parametrize(("cost", "kinds"), [(0.14, []), (None, ["cost-unknown"])])
def test_what_was_rejected_here_was_made_there(cost: float | None, kinds: list[str]):
    rejected = attempt(1, "failed", cost=cost, kind="rejected")

    found = differences([Seen(rejected, asked=True, charge_usd=cost)])

    assert [one.kind for one in found] == kinds
