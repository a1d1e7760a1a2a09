"""How little time is left before RunComfy deletes what is paid for, and how loudly it is said."""

from datetime import UTC, datetime, timedelta

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


def test_it_is_urgent_from_48_24_and_6_hours_on_and_over_at_0():
    steps = {
        Urgency.NONE: (168, 48.01),
        Urgency.SOON: (48, 24.01),
        Urgency.PRESSING: (24, 6.01),
        Urgency.LAST_HOURS: (6, 0.01),
        Urgency.OVER: (0, -100),
    }
    for urgency, hours in steps.items():
        assert {urgency_of(timedelta(hours=one)) for one in hours} == {urgency}


@given(st.lists(st.floats(-1000, 1000)))
def test_the_most_urgent_comes_first_and_nothing_urgent_is_left_out(hours: list[float]):
    attempts = [paid(timedelta(hours=left), number=place) for place, left in enumerate(hours)]
    found = at_risk(attempts, NOW)
    assert [one.left for one in found] == sorted(one.left for one in found)
    urgent = {place for place, left in enumerate(hours) if timedelta(hours=left) <= 2 * KEPT / 7}
    assert {one.attempt.id for one in found} == urgent


def test_only_what_is_paid_for_and_not_stored_is_at_risk():
    every = [paid(timedelta(hours=1), state) for state in JobState]
    assert {one.attempt.state for one in at_risk(every, NOW)} == set(UNFINISHED)


def test_each_level_is_said_louder_what_to_do_comes_last_and_of_very_many_some_are_named():
    hours = (40, 20, 5, -1, 100)
    said = warnings([paid(timedelta(hours=h), number=n) for n, h in enumerate(hours)], NOW)
    over, last_hours, pressing, soon, what_to_do = [text for _, text in said]
    assert "RunComfy may have deleted it" in over
    assert "ONLY 5 h LEFT" in last_hours
    assert pressing.startswith("LESS THAN 24 h")
    assert soon.startswith("less than 48 h")
    assert "comfyline reconcile" in what_to_do
    many = [paid(timedelta(hours=5), number=number) for number in range(1000)]
    texts = [text for _, text in warnings(many, NOW)]
    assert (len(texts), texts[20]) == (22, "and 980 more jobs")
