"""How long to wait, and until when."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.job import JobState
from comfyline.runcomfy.outage import Outage, backoff, read_retry_after
from comfyline.runcomfy.polling import Observation, next_poll
from tests.runcomfy.conftest import FakeTime

AGES = st.floats(0, 1e9)
PLACES = st.none() | st.integers(0, 10**6)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), ("1.5", 1.5), ("-3", 0)])
def test_retry_after_is_read_as_seconds(value: str, seconds: float):
    assert read_retry_after(value) == seconds


def test_retry_after_is_read_as_a_date():
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (read_retry_after(format_datetime(soon, usegmt=True)) or 0) <= 100
    assert 90 < (read_retry_after(soon.strftime("%a, %d %b %Y %H:%M:%S -0000")) or 0) <= 100
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    "value", ["", "soon", "nan", "inf", "1e999", "Wed, 99 Foo", "21 Oct 99999 07:28:00 +9999999"]
)
def test_a_retry_after_that_says_nothing_is_none(value: str):
    assert read_retry_after(value) is None


@given(st.text())
def test_no_retry_after_breaks_the_reader(value: str):
    seconds = read_retry_after(value)
    assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(0, 10**6))
def test_backoff_grows_to_a_bound_and_is_never_a_tight_loop(attempt: int):
    assert 0.1 < backoff(attempt) <= 10
    assert 0.1 < backoff(attempt, 0) <= 0.25
    assert 30 < backoff(attempt, 30) <= 30.25


def test_all_calls_share_one_patience(time: FakeTime):
    outage = Outage(60, time)
    assert outage.time_left(time()) == 60
    time.now = 50
    assert outage.time_left(time()) == 10
    outage.answered()
    assert outage.time_left(time()) == 60


def test_a_call_that_alone_keeps_failing_loses_its_own_patience(time: FakeTime):
    outage = Outage(60, time)
    outage.time_left(0)
    time.now = 70
    outage.answered()
    assert outage.time_left(0) == -10


@given(AGES, AGES, PLACES)
def test_an_older_request_is_asked_no_more_often(age: float, more: float, place: int | None):
    state = JobState.IN_QUEUE
    younger, older = (next_poll(Observation(a, state, place)) for a in (age, age + more))
    assert 0.4 <= younger <= older <= 5


@given(AGES, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_request_further_back_is_asked_no_more_often(age: float, place: int, more: int):
    state = JobState.IN_QUEUE
    nearer, further = (next_poll(Observation(age, state, p)) for p in (place, place + more))
    assert nearer <= further
    assert next_poll(Observation(age, None, None)) <= nearer
