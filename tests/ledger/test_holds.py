"""Holds: who walks a job, so that no two do the same work, and for how long that is believed."""

import asyncio
from collections.abc import Iterator

import pytest

from comfyline.errors import Unreachable
from comfyline.ledger import locks
from comfyline.ledger.claims import Claimed
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.locks import LOCK_SECONDS, RENEW_SECONDS
from tests.ledger.conftest import Clock, Desk, asked

KEY, OTHER = asked("one").key, asked("two").key


@pytest.fixture
def there(url: str, clock: Clock) -> Iterator[Ledger]:
    """Another process at the same ledger."""
    opened = Ledger(url, "there:2", clock)
    yield opened
    opened.close()


async def test_a_job_is_held_by_one_until_it_lets_go(ledger: Ledger, there: Ledger):
    assert await ledger.acquire(KEY)
    assert not await there.acquire(KEY)
    assert await there.unlocked([KEY, OTHER]) == {OTHER}
    await ledger.release(KEY)
    assert await there.unlocked([KEY, OTHER]) == {KEY, OTHER}
    assert await there.acquire(KEY)
    assert not await ledger.acquire(KEY)


async def test_who_holds_a_job_may_take_it_again(ledger: Ledger):
    assert await ledger.acquire(KEY)
    assert await ledger.unlocked([KEY]) == {KEY}
    assert await ledger.acquire(KEY)


async def test_a_hold_lapses_that_is_not_renewed(ledger: Ledger, there: Ledger, clock: Clock):
    await ledger.acquire(KEY)
    clock.forward(LOCK_SECONDS - 1)
    assert not await there.acquire(KEY)
    clock.forward(1)
    assert await there.unlocked([KEY]) == {KEY}
    assert await there.acquire(KEY)


async def test_others_are_at_work_for_as_long_as_one_of_them_holds_a_job(
    ledger: Ledger, there: Ledger, clock: Clock
):
    await ledger.acquire(KEY)
    assert not await ledger.is_anybody_at_work()
    assert await there.is_anybody_at_work()
    clock.forward(LOCK_SECONDS)
    assert not await there.is_anybody_at_work()


async def test_a_hold_that_is_renewed_lasts(ledger: Ledger, there: Ledger, clock: Clock):
    await ledger.acquire(KEY)
    for _ in range(10):
        clock.forward(RENEW_SECONDS)
        await ledger.renew_locks()
        assert not await there.acquire(KEY)


async def test_a_hold_that_was_taken_over_is_not_renewed_nor_let_go_by_who_lost_it(
    ledger: Ledger, there: Ledger, clock: Clock
):
    await ledger.acquire(KEY)
    clock.forward(LOCK_SECONDS)
    await there.acquire(KEY)
    clock.forward(LOCK_SECONDS - 1)
    await ledger.renew_locks()
    await ledger.release(KEY)
    await ledger.release_all()
    assert not await ledger.acquire(KEY)
    clock.forward(1)
    assert await ledger.acquire(KEY)


async def test_only_ones_own_holds_are_let_go_all_at_once(ledger: Ledger, there: Ledger):
    await ledger.acquire(KEY)
    await there.acquire(OTHER)
    await ledger.release_all()
    assert await there.acquire(KEY)
    assert not await ledger.acquire(OTHER)


async def test_nobody_else_is_asked_about_more_jobs_than_one_query_takes(
    ledger: Ledger, there: Ledger
):
    keys = [f"{number:064x}" for number in range(1200)]
    await ledger.acquire(keys[-1])
    assert await there.unlocked(keys) == set(keys[:-1])
    assert await ledger.unlocked(keys) == set(keys)


async def test_a_hold_is_no_permission_and_no_obstacle_to_submit(
    desk: Desk, ledger: Ledger, there: Ledger
):
    await ledger.acquire(KEY)
    assert isinstance(await Desk(there).claim(asked("one")), Claimed)
    assert not isinstance(await desk.claim(asked("one")), Claimed)


async def test_a_job_that_is_only_held_was_never_asked_for(desk: Desk, ledger: Ledger):
    await ledger.acquire(KEY)
    assert await ledger.list() == []
    assert await desk.claimed(asked("one"))


async def test_holds_are_renewed_beside_the_work_also_after_a_round_that_failed(
    ledger: Ledger, there: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    await ledger.acquire(KEY)
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.001)
    renewed, renew, rounds = asyncio.Event(), ledger.renew_locks, 0

    async def renew_at_the_second_round() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise Unreachable("The ledger is away")
        await renew()
        renewed.set()

    monkeypatch.setattr(ledger, "renew_locks", renew_at_the_second_round)
    clock.forward(LOCK_SECONDS - 1)
    keeping = asyncio.create_task(ledger.keep_locks())
    await asyncio.wait_for(renewed.wait(), 10)
    keeping.cancel()
    await asyncio.wait([keeping])
    clock.forward(LOCK_SECONDS - 1)
    assert not await there.acquire(KEY)
