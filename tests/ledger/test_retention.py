"""How little time is left before RunComfy deletes what is paid for, and how loudly it is said."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.config.account import Account
from comfyline.job import CheckedJob, Job, JobState, Placement
from comfyline.ledger.attempts import KEPT, Attempt, Evidence
from comfyline.ledger.queries import UNFINISHED
from comfyline.ledger.retention import Urgency, at_risk, urgency_of, warnings

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
JOB = Job("scenes", "cat", "edit", "acme/painter", {}, Placement("/out", "x", {}))
NOTHING = dict.fromkeys(
    ("owner", "lease_until", "reserved_usd", "cost_usd", "error_kind", "error_message")
)


def paid(left: timedelta, state: JobState = JobState.IN_PROGRESS, number: int = 1) -> Attempt:
    """An attempt that RunComfy keeps for so long yet."""
    times = ("created_at", "claimed_at", "submitted_at", "updated_at")
    return Attempt(
        id=number,
        number=1,
        state=state,
        checked=CheckedJob(JOB, f"{number:064}", (), 0.14),
        account=Account("https://model-api.example", profile="production"),
        run_id="run",
        request_id=f"request-{number}",
        evidence=Evidence(),
        outputs=(),
        reached={},
        **dict.fromkeys(times, NOW - KEPT + left),
        **NOTHING,
    )


@pytest.mark.parametrize(
    ("hours", "urgency"),
    [
        (168, Urgency.NONE),
        (48.01, Urgency.NONE),
        (48, Urgency.SOON),
        (24.01, Urgency.SOON),
        (24, Urgency.PRESSING),
        (6.01, Urgency.PRESSING),
        (6, Urgency.LAST_HOURS),
        (0.01, Urgency.LAST_HOURS),
        (0, Urgency.OVER),
        (-100, Urgency.OVER),
    ],
)
def test_it_is_urgent_from_48_24_and_6_hours_on_and_over_at_0(hours: float, urgency: Urgency):
    assert urgency_of(timedelta(hours=hours)) is urgency


@given(st.lists(st.floats(-1000, 1000)))
def test_the_most_urgent_comes_first_and_nothing_urgent_is_left_out(hours: list[float]):
    attempts = [paid(timedelta(hours=left), number=place) for place, left in enumerate(hours)]

    found = at_risk(attempts, NOW)

    assert [one.left for one in found] == sorted(one.left for one in found)
    urgent = {place for place, left in enumerate(hours) if timedelta(hours=left) <= 2 * KEPT / 7}
    assert {one.attempt.id for one in found} == urgent


@pytest.mark.parametrize("state", JobState)
def test_only_what_is_paid_for_and_not_stored_is_at_risk(state: JobState):
    found = at_risk([paid(timedelta(hours=1), state)], NOW)

    assert bool(found) == (state in UNFINISHED)


def test_each_level_is_said_louder_and_what_to_do_comes_last():
    hours = (40, 20, 5, -1)
    said = warnings([paid(timedelta(hours=h), number=n) for n, h in enumerate(hours)], NOW)

    texts = [text for _, text in said]
    assert [text.split(" ")[0] for text in texts[:4]] == ["7", "ONLY", "LESS", "less"]
    assert "RunComfy may have deleted it" in texts[0]
    assert "ONLY 5 h LEFT" in texts[1]
    assert all("paid for and not stored" in text for text in texts[:4])
    assert "comfyline reconcile" in texts[-1]


def test_nothing_urgent_says_nothing():
    assert warnings([paid(timedelta(hours=100))], NOW) == []


def test_of_very_many_the_most_urgent_are_named():
    many = [paid(timedelta(hours=5), number=number) for number in range(1000)]

    texts = [text for _, text in warnings(many, NOW)]

    assert len(texts) == 22
    assert texts[20] == "and 980 more jobs"
