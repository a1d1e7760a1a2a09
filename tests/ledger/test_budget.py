"""What may be spent: reserved before the POST, settled when the real cost is known."""

import math
from datetime import UTC, datetime

import pytest

from comfyline.errors import ComfylineError, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.block_reasons import over_budget
from comfyline.ledger.claims import BudgetExceeded, Claim, Claimed, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from tests.ledger.conftest import Clock, Desk, asked

UNKNOWN = [None, math.nan, math.inf, -math.inf, -1.0]


def of_run(usd: float, **more: float | bool | None) -> Limits:
    return Limits(1000, max_cost_usd=usd, **more)


def of_day(usd: float, **more: float | bool | None) -> Limits:
    return Limits(1000, max_cost_usd_per_day=usd, **more)


def is_claimed(claim: Claim) -> bool:
    return isinstance(claim, Claimed)


async def test_estimates_are_reserved_until_the_real_cost_is_known(desk: Desk, ledger: Ledger):
    first = await desk.claim(asked("one", price=0.5), limits=of_run(1.0))
    assert isinstance(first, Claimed)
    assert is_claimed(await desk.claim(asked("two", price=0.5), limits=of_run(1.0)))
    third = asked("three", price=0.1)
    assert await desk.claim(third, limits=of_run(1.0)) == BudgetExceeded("run", 1.0, 1.0)
    await ledger.accepted(first.attempt_id, "r-1")
    await ledger.completed(first.attempt_id, 0.2)
    assert is_claimed(await desk.claim(third, limits=of_run(1.0)))


async def test_a_job_that_costs_exactly_what_is_left_fits(desk: Desk):
    for number in range(10):
        assert is_claimed(await desk.claim(asked(str(number), price=0.1), limits=of_run(1.0)))
    assert isinstance(
        await desk.claim(asked("more", price=0.001), limits=of_run(1.0)), BudgetExceeded
    )


async def test_a_real_cost_above_the_estimate_counts_in_full(desk: Desk, ledger: Ledger):
    await ledger.completed(await desk.submitted(asked("one", price=0.5)), 0.9)
    assert await desk.claim(asked("two"), limits=of_run(1.0)) == BudgetExceeded("run", 1.0, 0.9)


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_what_ended_without_a_charge_reserves_nothing(
    end: JobState, desk: Desk, ledger: Ledger
):
    attempt_id = await desk.submitted(asked("one", price=0.5))
    assert isinstance(await desk.claim(asked("two"), limits=of_run(0.5)), BudgetExceeded)
    await ledger.ended(attempt_id, end, GenerationFailed("no"))
    assert is_claimed(await desk.claim(asked("two"), limits=of_run(0.5)))


@pytest.mark.parametrize("end", [JobState.FAILED, JobState.CANCELLED])
async def test_what_ended_with_a_charge_stays_spent(end: JobState, desk: Desk, ledger: Ledger):
    attempt_id = await desk.submitted(asked("one", price=0.5))
    await ledger.ended(attempt_id, end, GenerationFailed("no"), cost_usd=0.3)
    assert await desk.claim(asked("two"), limits=of_run(0.5)) == BudgetExceeded("run", 0.5, 0.3)


async def test_what_is_in_doubt_stays_reserved_in_full(desk: Desk, clock: Clock):
    await desk.claimed(asked("one", price=0.5))
    clock.forward(61)
    assert await desk.claim(asked("two"), limits=of_run(0.9)) == BudgetExceeded("run", 0.9, 0.5)
    [doubt] = await desk.ledger.list(Selection(state=JobState.IN_DOUBT))
    await desk.ledger.lost(doubt.id, ComfylineError("Somebody looked"))
    assert is_claimed(await desk.claim(asked("two"), limits=of_run(0.9)))


@pytest.mark.parametrize("state", [JobState.PERSISTED, JobState.EXPIRED])
async def test_what_was_made_at_a_cost_nobody_told_stays_reserved(
    state: JobState, desk: Desk, ledger: Ledger
):
    attempt_id = await desk.submitted(asked("one", price=0.5))
    await ledger.completed(attempt_id, None)
    await desk.brought(attempt_id, state)
    assert await desk.claim(asked("two"), limits=of_run(0.9)) == BudgetExceeded("run", 0.9, 0.5)


async def test_what_never_left_reserves_nothing(desk: Desk, ledger: Ledger):
    await ledger.not_sent(await desk.claimed(asked("one", price=0.5)))
    assert is_claimed(await desk.claim(asked("two"), limits=of_run(0.5)))


async def test_an_attempt_claimed_anew_reserves_its_new_price(desk: Desk, ledger: Ledger):
    await ledger.not_sent(await desk.claimed(asked("one", price=None)))
    await desk.claimed(asked("one", price=0.5))
    assert await desk.claim(asked("two"), limits=of_run(0.9)) == BudgetExceeded("run", 0.9, 0.5)


async def test_only_this_run_counts_towards_its_limit(desk: Desk):
    await desk.claimed(asked("one", price=0.5), "run-0")
    assert is_claimed(await desk.claim(asked("two", price=0.5), limits=of_run(0.5)))


async def test_all_processes_of_a_run_share_its_limit(desk: Desk, url: str, clock: Clock):
    there = Ledger(url, "there:2", clock)
    assert is_claimed(await desk.claim(asked("one"), limits=of_run(0.9)))
    assert await Desk(there).claim(asked("two"), limits=of_run(0.9)) == BudgetExceeded(
        "run", 0.9, 0.5
    )
    there.close()


async def test_a_day_counts_over_all_runs_of_its_pipeline_and_of_no_other(desk: Desk):
    assert is_claimed(await desk.claim(asked("one"), "run-1", limits=of_day(1.0)))
    assert is_claimed(await desk.claim(asked("two"), "run-2"))
    third = asked("three")
    assert await desk.claim(third, "run-3", limits=of_day(1.0)) == BudgetExceeded("day", 1.0, 1.0)
    assert is_claimed(await desk.claim(asked("three", pipeline="other"), limits=of_day(1.0)))


async def test_a_day_ends_at_midnight_in_utc(desk: Desk, clock: Clock):
    clock.time = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)
    assert is_claimed(await desk.claim(asked("one"), limits=of_day(0.9)))
    clock.forward(29)
    assert await desk.claim(asked("two"), limits=of_day(0.9)) == BudgetExceeded("day", 0.9, 0.5)
    clock.forward(1)
    assert is_claimed(await desk.claim(asked("two"), limits=of_day(0.9)))
    # What was claimed at midnight itself belongs to the day that begins.
    assert await desk.claim(asked("three"), limits=of_day(0.9)) == BudgetExceeded("day", 0.9, 0.5)


async def test_what_was_claimed_before_midnight_and_charged_after_it_counts_where_it_was_claimed(
    desk: Desk, ledger: Ledger, clock: Clock
):
    clock.time = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)
    attempt_id = await desk.submitted(asked("one"))
    clock.forward(60)
    await ledger.completed(attempt_id, 0.9)
    assert is_claimed(await desk.claim(asked("two"), limits=of_day(0.9)))


async def test_the_tighter_of_two_limits_counts(desk: Desk):
    both = Limits(1000, max_cost_usd=0.9, max_cost_usd_per_day=1.4)
    assert is_claimed(await desk.claim(asked("one"), "run-1", limits=both))
    assert await desk.claim(asked("two"), "run-1", limits=both) == BudgetExceeded("run", 0.9, 0.5)
    assert is_claimed(await desk.claim(asked("two"), "run-2", limits=both))
    assert await desk.claim(asked("three"), "run-3", limits=both) == BudgetExceeded("day", 1.4, 1.0)


@pytest.mark.parametrize("price", UNKNOWN)
async def test_an_unknown_price_fits_under_no_limit_and_is_no_obstacle_without_one(
    price: float | None, desk: Desk
):
    job = asked(price=price)
    assert await desk.claim(job, limits=of_run(1e9)) == BudgetExceeded("price", 1e9, 0.0)
    assert await desk.claim(job, limits=of_day(1e9)) == BudgetExceeded("price", 1e9, 0.0)
    assert is_claimed(await desk.claim(job))


@pytest.mark.parametrize("price", UNKNOWN)
async def test_a_price_that_is_none_makes_no_room_for_others(price: float | None, desk: Desk):
    await desk.claimed(asked("one", price=price))
    assert isinstance(await desk.claim(asked("two", price=0.6), limits=of_run(0.5)), BudgetExceeded)


@pytest.mark.parametrize("price", UNKNOWN)
async def test_a_ceiling_is_set_aside_for_a_price_that_nobody_knows(
    price: float | None, desk: Desk, ledger: Ledger
):
    one, limits = asked("one", price=price), of_run(1.0, ceiling_usd=0.8, allow_unknown_cost=True)
    assert is_claimed(await desk.claim(one, limits=limits))
    assert (await desk.known(one)).reserved_usd == 0.8
    two = asked("two", price=price)
    assert await desk.claim(two, limits=limits) == BudgetExceeded("run", 1.0, 0.8)
    await ledger.accepted((await desk.known(one)).id, "r-1")
    await ledger.completed((await desk.known(one)).id, 0.1)
    assert is_claimed(await desk.claim(two, limits=limits))


async def test_a_known_price_is_set_aside_whatever_the_ceiling(desk: Desk):
    job = asked(price=0.3)
    assert is_claimed(await desk.claim(job, limits=of_run(0.5, ceiling_usd=0.8)))
    assert (await desk.known(job)).reserved_usd == 0.3


async def test_an_unknown_cost_that_is_allowed_counts_when_it_is_known(desk: Desk, ledger: Ledger):
    allowed = of_run(0.5, allow_unknown_cost=True)
    first = await desk.claim(asked("one", price=None), limits=allowed)
    assert isinstance(first, Claimed)
    assert is_claimed(await desk.claim(asked("two", price=None), limits=allowed))
    await ledger.accepted(first.attempt_id, "r-1")
    await ledger.completed(first.attempt_id, 0.6)
    claim = await desk.claim(asked("three", price=None), limits=allowed)
    assert claim == BudgetExceeded("run", 0.5, 0.6)


@pytest.mark.parametrize("limits", [of_run(math.nan), of_day(math.nan)])
async def test_a_limit_that_is_no_number_lets_nothing_through(limits: Limits, desk: Desk):
    assert isinstance(await desk.claim(asked(), limits=limits), BudgetExceeded)


async def test_a_limit_of_nothing_lets_through_what_is_free(desk: Desk):
    assert is_claimed(await desk.claim(asked("one", price=0.0), limits=of_run(0.0)))
    assert await desk.claim(asked("two"), limits=of_run(0.0)) == BudgetExceeded("run", 0.0, 0.0)


@pytest.mark.parametrize(
    ("price", "no_money", "said"),
    [
        (None, BudgetExceeded("price", 2.0, 0.0), "no known price, and there is a limit of $2"),
        (None, BudgetExceeded("price", 2.0, 0.0), "--allow-unknown-cost"),
        (None, BudgetExceeded("price", 2.0, 0.0), "limits.cost_ceilings"),
        (
            0.5,
            BudgetExceeded("run", 2.0, 1.8),
            "about $0.50; $1.80 of the limit of $2 for this run",
        ),
        (0.5, BudgetExceeded("run", 2.0, 1.8), "--max-cost"),
        (
            0.5,
            BudgetExceeded("day", 2.0, 1.8),
            "$1.80 of the limit of $2 for this pipeline today (UTC)",
        ),
        (0.5, BudgetExceeded("day", 2.0, 1.8), "limits.max_cost_usd_per_day"),
        (None, BudgetExceeded("run", 2.0, 1.8), "$1.80 of the limit of $2 for this run"),
    ],
)
def test_a_refusal_for_money_says_which_limit_what_is_spent_and_what_to_do(
    price: float | None, no_money: BudgetExceeded, said: str
):
    assert said in str(over_budget(asked(price=price), no_money))
