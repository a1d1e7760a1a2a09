"""What a run may spend: reserved before the POST, settled when the real cost is known."""

import math

import pytest

from comfyline.errors import GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.ledger import Claimed, Ledger, Limits, NoMoney
from comfyline.ledger.refusals import over_budget
from tests.ledger.conftest import Clock, Desk, asked


def budget(usd: float) -> Limits:
    return Limits(in_flight=1000, flight_window=3600, max_cost_usd=usd)


async def test_estimates_are_reserved_until_the_real_cost_is_known(desk: Desk, ledger: Ledger):
    first = await desk.claim(asked("one", price=0.5), limits=budget(1.0))
    assert isinstance(first, Claimed)
    assert isinstance(await desk.claim(asked("two", price=0.5), limits=budget(1.0)), Claimed)
    assert await desk.claim(asked("three", price=0.1), limits=budget(1.0)) == NoMoney(1.0)
    await ledger.accepted(first.attempt_id, "r-1")
    await ledger.completed(first.attempt_id, 0.2)
    assert isinstance(await desk.claim(asked("three", price=0.1), limits=budget(1.0)), Claimed)


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_what_ended_without_a_charge_reserves_nothing(
    end: JobState, desk: Desk, ledger: Ledger
):
    attempt_id = await desk.submitted(asked("one", price=0.5))
    assert isinstance(await desk.claim(asked("two", price=0.5), limits=budget(0.5)), NoMoney)
    await ledger.ended(attempt_id, end, GenerationFailed("no"))
    assert isinstance(await desk.claim(asked("two", price=0.5), limits=budget(0.5)), Claimed)


async def test_what_ended_with_a_charge_stays_spent(desk: Desk, ledger: Ledger):
    attempt_id = await desk.submitted(asked("one", price=0.5))
    await ledger.ended(attempt_id, JobState.FAILED, GenerationFailed("no"), cost_usd=0.3)
    assert await desk.claim(asked("two", price=0.5), limits=budget(0.5)) == NoMoney(0.3)


async def test_what_is_in_doubt_stays_reserved(desk: Desk, clock: Clock):
    await desk.claimed(asked("one", price=0.5))
    clock.forward(61)
    assert await desk.claim(asked("two", price=0.5), limits=budget(0.9)) == NoMoney(0.5)


async def test_what_never_left_reserves_nothing(desk: Desk, ledger: Ledger):
    await ledger.not_sent(await desk.claimed(asked("one", price=0.5)))
    assert isinstance(await desk.claim(asked("two", price=0.5), limits=budget(0.5)), Claimed)


async def test_an_attempt_claimed_anew_reserves_its_new_price(desk: Desk, ledger: Ledger):
    await ledger.not_sent(await desk.claimed(asked("one", price=None)))
    await desk.claimed(asked("one", price=0.5))
    assert await desk.claim(asked("two", price=0.5), limits=budget(0.9)) == NoMoney(0.5)


async def test_only_this_run_counts_towards_its_limit(desk: Desk):
    await desk.claimed(asked("one", price=0.5), "run-0")
    assert isinstance(await desk.claim(asked("two", price=0.5), limits=budget(0.5)), Claimed)


@pytest.mark.parametrize("price", [None, math.nan, math.inf, -1.0])
async def test_an_unknown_price_fits_under_no_limit_and_is_no_obstacle_without_one(
    price: float | None, desk: Desk
):
    job = asked(price=price)
    claim = await desk.claim(job, limits=budget(1e9))
    assert isinstance(claim, NoMoney)
    assert isinstance(await desk.claim(job), Claimed)


async def test_a_limit_that_is_no_number_lets_nothing_through(desk: Desk):
    assert isinstance(await desk.claim(asked(), limits=budget(math.nan)), NoMoney)


async def test_a_refusal_for_money_says_the_price_and_the_limit():
    assert "no known price" in str(over_budget(asked(price=None), 2.0, 0.0))
    assert "about $0.50; $1.80 of the limit of $2.0" in str(over_budget(asked(), 2.0, 1.8))
