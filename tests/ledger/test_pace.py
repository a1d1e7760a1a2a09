"""The pace of submissions: one for all processes of an account, whichever of them die."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.config.account import Account
from comfyline.config.duration import seconds_awake_or_asleep
from comfyline.ledger.claims import Claimed, Limits, TooSoon
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.pace import EARLY, LATE, next_place, spacing
from tests.ledger.conftest import Clock, Desk, asked
from tests.ledger.processes import at_once, killed_after

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
APART = spacing(2).total_seconds()
RATES = st.floats(0.05, 300)


@pytest.fixture(autouse=True)
def here(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """The clock of this machine, which goes as the ledger's does."""

    def seconds() -> float:
        return 1000 + (clock.time - START).total_seconds()

    monkeypatch.setattr("comfyline.ledger.ledger.seconds_awake_or_asleep", seconds)
    return seconds


def most_in_a_second(moments: list[float]) -> int:
    return max(sum(0 <= later - first < 1 for later in moments) for first in moments)


@given(RATES, st.lists(st.floats(0, 3), min_size=1, max_size=80), st.data())
def test_no_second_sees_more_than_the_limit_and_one_however_late_each_post_leaves(
    rate: float, pauses: list[float], data: st.DataObject
):
    next_at = noted_at = now = START
    posts: list[float] = []
    for pause in pauses:
        now += timedelta(seconds=pause)
        place = next_place(next_at, noted_at, now)
        assert place >= now
        next_at, noted_at = place + spacing(rate), now
        late = data.draw(st.sampled_from((0, LATE)) | st.floats(0, LATE))
        posts.append((place - START).total_seconds() + late)
    # A microsecond is the finest that a database keeps.
    assert most_in_a_second(posts) <= rate + 1 + 1e-3


@given(RATES)
def test_nine_tenths_of_the_rate_are_used_at_least(rate: float):
    assert 0.9 * rate <= 1 / spacing(rate).total_seconds() <= rate + 1e-3


@given(st.floats(0, 1e6), st.floats(0, 100))
def test_a_clock_that_was_set_back_makes_nobody_wait_longer_than_it_was(back: float, left: float):
    next_at = START + timedelta(seconds=left)
    place = next_place(next_at, START, now := START - timedelta(seconds=back))
    assert timedelta(0) <= place - now <= timedelta(seconds=left)


async def test_places_follow_one_another_and_a_claim_that_is_too_early_has_one_already(
    ledger: Ledger, desk: Desk, there: Desk, clock: Clock
):
    two = Limits(1000, submits_per_second=2)
    first = await desk.claim(asked("one"), limits=two)
    early = await there.claim(asked("two"), limits=two)
    assert isinstance(first, Claimed)
    assert (first.place, early) == (1000, TooSoon(1000 + APART))
    assert [one.state for one in await ledger.list()] == ["submitting"]
    clock.forward(APART - EARLY / 2)
    second = await there.claim(asked("two"), limits=two, place=1000 + APART, more=True)
    assert isinstance(second, Claimed)
    assert (second.place, second.next_place) == (1000 + APART, 1000 + 2 * APART)


@pytest.mark.parametrize("missed", [2 * LATE, -2 * EARLY])
async def test_a_place_that_was_missed_or_that_a_clock_has_moved_is_not_used(
    desk: Desk, missed: float
):
    two = Limits(9, submits_per_second=2)
    claim = await desk.claim(asked(), limits=two, place=1000 - missed)
    assert isinstance(claim, Claimed)
    assert claim.place == 1000


async def test_a_post_that_missed_its_place_takes_another_one(ledger: Ledger, desk: Desk):
    assert await desk.asks(asked(), limits=Limits(9, submits_per_second=2)) == "CLAIMED"
    assert await ledger.take_place(2) == 1000 + APART


async def test_accounts_have_paces_of_their_own_and_without_a_rate_there_is_none(
    url: str, desk: Desk, clock: Clock
):
    other = Desk(Ledger(url, "here:1", clock, account=Account("https://api.example", "b")))
    slow = Limits(1000, submits_per_second=0.01)
    assert await desk.asks(asked("one"), limits=slow) == "CLAIMED"
    assert await desk.asks(asked("two"), limits=slow) == "TooSoon"
    assert await desk.asks(asked("three")) == "CLAIMED"
    assert await other.asks(asked("four"), limits=slow) == "CLAIMED"
    other.ledger.close()


FAST = Limits(1000, submits_per_second=40)
JOBS = 12


async def _claim_in_time(desk: Desk, number: str) -> list[float]:
    """The places of as many claims, made as a process makes them that has more to do."""
    places: list[float] = []
    place: float | None = None
    while len(places) < JOBS:
        await asyncio.sleep(max(0, (place or 0) - EARLY / 2 - seconds_awake_or_asleep()))
        job, more = asked(f"{number}-{len(places)}"), len(places) + 1 < JOBS
        match await desk.claim(job, limits=FAST, place=place, more=more):
            case Claimed(place=mine, next_place=next_place):
                places.append(mine)
                place = next_place
            case TooSoon(place=given):
                place = given
            case other:
                raise AssertionError(other)
    return places


async def claim_in_time(desk: Desk, _: Any) -> list[float]:
    return await _claim_in_time(desk, desk.ledger.worker_id)


async def claim_and_wait(desk: Desk, argument: Any) -> None:
    prompt, told = argument
    claim = await desk.claim(asked(prompt), limits=FAST, more=True)
    assert isinstance(claim, Claimed)
    told.put(desk.ledger.worker_id)
    await asyncio.sleep(60)


def test_processes_share_one_pace_and_a_killed_one_wastes_its_own_places_only(url: str):
    killed_after(claim_and_wait, url, "a cat")
    places = sorted(place for mine in at_once(3, claim_in_time, url) for place in mine)
    assert most_in_a_second(places) <= 40 + 1
    apart = spacing(40).total_seconds()
    # The database's clock is read over a connection, which is not always as quick.
    assert places[-1] - places[0] >= (len(places) - 1) * apart - 0.1
