"""What may be spent: reserved before the POST, settled when the real cost is known."""

import math
from datetime import UTC, datetime

import pytest

from comfyline.errors import ComfylineError, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.block_reasons import over_budget
from comfyline.ledger.claims import BudgetExceeded, Limits
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Clock, Desk, asked

ONE, TWO, THREE = asked("one"), asked("two"), asked("three")


def of_run(usd: float, **more: float | bool | None) -> Limits:
    return Limits(1000, max_cost_usd=usd, **more)


def of_day(usd: float, **more: float | bool | None) -> Limits:
    return Limits(1000, max_cost_usd_per_day=usd, **more)


async def test_estimates_are_reserved_until_the_real_cost_is_known(
    desk: Desk, ledger: Ledger, there: Desk
):
    """By all processes of a run together, and by no other run."""
    await desk.claimed(asked("another run's"), "run-0")
    first = await desk.claimed(ONE, limits=of_run(1.0))
    assert await there.asks(TWO, limits=of_run(1.0)) == "CLAIMED"
    assert await desk.claim(THREE, limits=of_run(1.0)) == BudgetExceeded("run", 1.0, 1.0)
    await ledger.accepted(first, "r-1")
    await ledger.completed(first, 0.0)
    assert await desk.asks(THREE, limits=of_run(1.0)) == "CLAIMED"


async def test_a_job_that_costs_exactly_what_is_left_fits(desk: Desk):
    for number in range(10):
        job = asked(str(number), price=0.1)
        assert await desk.asks(job, limits=of_run(1.0)) == "CLAIMED"
    assert await desk.asks(asked("free", price=0.0), limits=of_run(1.0)) == "CLAIMED"
    assert await desk.asks(ONE, "run-2", limits=of_run(0.0)) == "run has 0"


@pytest.mark.parametrize(
    ("end", "cost", "reserved"),
    [
        ("failed", None, 0.0),
        ("cancelled", None, 0.0),
        ("failed", 0.3, 0.3),
        ("cancelled", 0.3, 0.3),
        ("persisted", None, 0.5),
        ("expired", None, 0.5),
        ("in_doubt", None, 0.5),
        ("lost", None, 0.0),
        ("planned", None, 0.0),
    ],
)
async def test_what_is_reserved_for_an_attempt_once_it_has_ended(
    end: str, cost: float | None, reserved: float, desk: Desk, ledger: Ledger
):
    match end:
        case "failed" | "cancelled":
            error = GenerationFailed("no")
            await ledger.ended(await desk.submitted(ONE), JobState(end), error, cost_usd=cost)
        case "persisted" | "expired":
            attempt_id = await desk.submitted(ONE)
            await ledger.completed(attempt_id, None)
            await desk.brought(attempt_id, JobState(end))
        case "planned":
            await desk.not_sent(await desk.claimed(ONE))
        case _:
            attempt_id = await desk.in_doubt(ONE)
            if end == "lost":
                await ledger.lost(attempt_id, ComfylineError("Somebody looked"))
    limits = of_run(0.49 + reserved)
    assert await desk.claim(TWO, limits=limits) == BudgetExceeded("run", 0.49 + reserved, reserved)
    assert await desk.asks(TWO, limits=of_run(0.5 + reserved)) == "CLAIMED"


async def test_an_attempt_claimed_anew_reserves_its_new_price(desk: Desk):
    await desk.not_sent(await desk.claimed(asked("one", price=None)))
    await desk.claimed(ONE)
    assert await desk.asks(TWO, limits=of_run(0.9)) == "run has 0.5"


async def test_a_day_counts_over_all_runs_of_its_pipeline_and_of_no_other(desk: Desk):
    assert await desk.asks(ONE, "run-1", limits=of_day(1.0)) == "CLAIMED"
    await desk.claimed(TWO, "run-2")
    assert await desk.claim(THREE, "run-3", limits=of_day(1.0)) == BudgetExceeded("day", 1.0, 1.0)
    assert await desk.asks(asked("three", pipeline="other"), limits=of_day(1.0)) == "CLAIMED"


async def test_a_day_ends_at_midnight_in_utc(desk: Desk, ledger: Ledger, clock: Clock):
    clock.time = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)
    first = await desk.submitted(ONE)
    clock.forward(29)
    assert await desk.asks(TWO, limits=of_day(0.9)) == "day has 0.5"
    clock.forward(1)
    # What is charged only now was claimed yesterday; what is claimed at midnight itself, today.
    await ledger.completed(first, 0.9)
    assert await desk.asks(TWO, limits=of_day(0.9)) == "CLAIMED"
    assert await desk.asks(THREE, limits=of_day(0.9)) == "day has 0.5"


async def test_the_tighter_of_two_limits_counts(desk: Desk):
    both = Limits(1000, max_cost_usd=0.9, max_cost_usd_per_day=1.4)
    assert await desk.asks(ONE, "run-1", limits=both) == "CLAIMED"
    assert await desk.asks(TWO, "run-1", limits=both) == "run has 0.5"
    assert await desk.asks(TWO, "run-2", limits=both) == "CLAIMED"
    assert await desk.asks(THREE, "run-3", limits=both) == "day has 1"


@pytest.mark.parametrize("price", [None, math.nan, math.inf, -math.inf, -1.0])
async def test_a_price_that_nobody_knows(price: float | None, desk: Desk, ledger: Ledger):
    """It fits under no limit but with a ceiling, which is set aside, and makes no room either."""
    job = asked(price=price)
    assert await desk.claim(job, limits=of_run(1e9)) == BudgetExceeded("price", 1e9, 0.0)
    assert await desk.claim(job, limits=of_day(1e9)) == BudgetExceeded("price", 1e9, 0.0)
    assert await desk.asks(job, "run-2") == "CLAIMED"
    assert await desk.asks(asked("two", price=0.6), "run-2", limits=of_run(0.5)) == "run has 0"
    limits = of_run(1.0, ceiling_usd=0.8, allow_unknown_cost=True)
    attempt_id = await desk.submitted(asked("capped", price=price), limits=limits)
    capped = asked("capped too", price=price)
    assert await desk.asks(capped, limits=limits) == "run has 0.8"
    await ledger.completed(attempt_id, 0.1)
    assert await desk.asks(capped, limits=limits) == "CLAIMED"


async def test_a_known_price_is_set_aside_whatever_the_ceiling(desk: Desk):
    await desk.claimed(asked(price=0.3), limits=of_run(0.5, ceiling_usd=0.8))
    assert (await desk.known(asked())).reserved_usd == 0.3


async def test_an_unknown_cost_that_is_allowed_counts_when_it_is_known(desk: Desk, ledger: Ledger):
    allowed = of_run(0.5, allow_unknown_cost=True)
    first = await desk.submitted(asked("one", price=None), limits=allowed)
    assert await desk.asks(asked("two", price=None), limits=allowed) == "CLAIMED"
    await ledger.completed(first, 0.6)
    assert await desk.asks(asked("three", price=None), limits=allowed) == "run has 0.6"


@pytest.mark.parametrize("limits", [of_run(math.nan), of_day(math.nan)])
async def test_a_limit_that_is_no_number_lets_nothing_through(limits: Limits, desk: Desk):
    assert isinstance(await desk.claim(ONE, limits=limits), BudgetExceeded)


@pytest.mark.parametrize(
    ("price", "exceeded", "said"),
    [
        (
            None,
            BudgetExceeded("price", 2.0, 0.0),
            ("no known price, but there is a limit of $2", "--allow-unknown-cost", "cost_ceilings"),
        ),
        (
            0.5,
            BudgetExceeded("run", 2.0, 1.8),
            ("about $0.50; $1.80 of the limit of $2 for this run", "--max-cost"),
        ),
        (
            0.5,
            BudgetExceeded("day", 2.0, 1.8),
            ("limit of $2 for this pipeline today (UTC)", "limits.max_cost_usd_per_day"),
        ),
        (None, BudgetExceeded("run", 2.0, 1.8), ("$1.80 of the limit of $2 for this run",)),
    ],
)
def test_a_refusal_for_money_says_which_limit_what_is_spent_and_what_to_do(
    price: float | None, exceeded: BudgetExceeded, said: tuple[str, ...]
):
    error = str(over_budget(asked(price=price), exceeded))
    assert all(one in error for one in said), error
