"""Locks: who works on a job, so that no two do the same work, and for how long that is believed."""

import asyncio

import pytest

from comfyline.errors import Unreachable
from comfyline.ledger import locks
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.locks import LOCK_SECONDS, RENEW_SECONDS
from tests.ledger.conftest import Clock, Desk, asked

KEY, OTHER = asked("one").key, asked("two").key


async def test_a_job_is_locked_by_one_until_it_is_released(ledger: Ledger, there: Desk):
    other = there.ledger
    assert await ledger.acquire(KEY)
    assert await ledger.acquire(KEY), "who has it may take it again"
    assert not await other.acquire(KEY)
    assert await other.unlocked([KEY, OTHER]) == {OTHER}
    assert await ledger.unlocked([KEY]) == {KEY}
    await ledger.release(KEY)
    assert await other.unlocked([KEY, OTHER]) == {KEY, OTHER}
    assert await other.acquire(KEY)
    assert not await ledger.acquire(KEY)
    assert await ledger.acquire(OTHER)
    # Nobody releases what is another's, and more are looked at than one query takes.
    await other.release_all()
    assert await ledger.acquire(KEY)
    many = [KEY, *(f"{number:064x}" for number in range(1200)), OTHER]
    assert await other.unlocked(many) == {*many} - {KEY, OTHER}


async def test_a_lock_lasts_while_it_is_renewed_and_lapses_then(
    ledger: Ledger, there: Desk, clock: Clock
):
    await ledger.acquire(KEY)
    for _ in range(5):
        clock.forward(RENEW_SECONDS)
        await ledger.renew_locks()
    clock.forward(LOCK_SECONDS - 1)
    assert not await there.ledger.acquire(KEY)
    assert await there.ledger.at_work()
    assert not await ledger.at_work()
    clock.forward(1)
    assert not await there.ledger.at_work()
    assert await there.ledger.unlocked([KEY]) == {KEY}
    assert await there.ledger.acquire(KEY)
    # Who has lost it neither renews nor releases it.
    clock.forward(LOCK_SECONDS - 1)
    await ledger.renew_locks()
    await ledger.release(KEY)
    await ledger.release_all()
    assert not await ledger.acquire(KEY)
    clock.forward(1)
    assert await ledger.acquire(KEY)


async def test_a_lock_is_no_permission_and_no_obstacle_to_submit(
    desk: Desk, ledger: Ledger, there: Desk
):
    await ledger.acquire(KEY)
    assert await ledger.list() == [], "it was never asked for"
    assert await there.asks(asked("one")) == "CLAIMED"
    assert await desk.asks(asked("one")) == "WAIT"


async def test_locks_are_renewed_beside_the_work_also_after_a_round_that_failed(
    ledger: Ledger, there: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
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
    assert not await there.ledger.acquire(KEY)
