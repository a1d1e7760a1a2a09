"""How long to wait, and until when."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import Unreachable
from comfyline.runcomfy.retry import RetryBudget, backoff, read_retry_after
from tests.runcomfy.conftest import FakeTime

AWAY = Unreachable("RunComfy cannot be reached: it is night")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("-3", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("1e999", None),
        ("Wed, 99 Foo", None),
        ("21 Oct 99999 07:28:00 +9999999", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_says_nothing(value: str, seconds: float | None):
    assert read_retry_after(value) == seconds


def test_retry_after_is_read_as_a_date():
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (read_retry_after(format_datetime(soon, usegmt=True)) or 0) <= 100
    assert 90 < (read_retry_after(soon.strftime("%a, %d %b %Y %H:%M:%S -0000")) or 0) <= 100


@given(st.integers(0, 10**6))
def test_backoff_grows_to_a_bound_and_is_never_a_tight_loop(attempt: int):
    assert 0.1 < backoff(attempt) <= 10
    assert 0.1 < backoff(attempt, 0) <= 0.25
    assert 30 < backoff(attempt, 30) <= 30.25


def test_all_calls_share_one_budget_and_any_answer_fills_it(time: FakeTime):
    budget = RetryBudget(60, time)
    assert budget.failed(AWAY, time()) == 60
    time.now = 50
    assert budget.failed(AWAY, time()) == 10
    budget.answered()
    assert budget.failed(AWAY, time()) == 60
    # A failure that nobody followed up for long does not count.
    time.now = 3600
    assert budget.failed(AWAY, 3600) == 60


def test_a_call_that_alone_keeps_failing_loses_its_own_patience_and_spends_nothing(time: FakeTime):
    budget = RetryBudget(60, time)
    budget.failed(AWAY, 0)
    time.now = 70
    budget.answered()
    assert budget.failed(AWAY, 0) == -10
    assert budget.spent is None


def test_a_spent_budget_says_who_was_asked_for_how_long_until_there_is_an_answer(time: FakeTime):
    budget = RetryBudget(60, time, where="https://api.test, profile night")
    budget.failed(AWAY, 0)
    assert budget.spent is None
    time.now = 60
    budget.failed(AWAY, 0)
    spent = budget.spent
    assert spent is not None
    assert spent.message == f"{AWAY.message} (asked for 1m at https://api.test, profile night)"
    assert (spent.kind, spent.exit_code, spent.passing) == ("unreachable", 69, False)
    assert spent is not budget.spent
    budget.answered()
    assert budget.spent is None


def test_what_is_waited_for_is_said_seldom_and_its_end_as_well(time: FakeTime):
    said: list[str] = []
    budget = RetryBudget(60, time, where="https://api.test, profile night", say=said.append)
    for time.now in (0, 0.2, 0.6, 1.4, 3, 20, 29, 31, 59):
        budget.failed(AWAY, 0)
    where = "RunComfy at https://api.test, profile night"
    assert said == [
        f"waiting for {where}, up to {more} more: {AWAY.message}" for more in ("59s", "29s")
    ]
    budget.answered()
    budget.answered()
    assert said[2:] == ["RunComfy answers again"]
    # A try that was waited for in silence is told of at once.
    budget.failed(AWAY, 59, took=10)
    assert len(said) == 4


async def test_one_call_told_to_come_back_later_holds_all_others(time: FakeTime):
    budget = RetryBudget(60, time, time.sleep)
    asked: list[tuple[str, float]] = []

    async def busy() -> str:
        asked.append(("busy", time()))
        if len(asked) == 1:
            raise Unreachable("too many calls", retry_after=7)
        return "at last"

    async def other() -> str:
        asked.append(("other", time()))
        return "at once"

    first = asyncio.create_task(budget.repeat(busy, lambda _: False))
    await asyncio.sleep(0)
    assert await budget.repeat(other, lambda _: False) == "at once"
    assert await first == "at last"
    assert [name for name, at in asked if at < 7] == ["busy"]
