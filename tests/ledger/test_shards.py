"""Who works on which shard of a run: one at a time, and another when its holder is gone."""

import asyncio

import pytest

from comfyline.errors import UsageError
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.locks import LOCK_SECONDS
from comfyline.ledger.shards import ShardRow
from tests.ledger.conftest import Clock, Desk

RUN = "run-1"


async def cut(ledger: Ledger, of: int = 2) -> None:
    await ledger.shards.cut(RUN, of, await ledger.open_run(RUN, "scenes"))


async def first(ledger: Ledger) -> ShardRow:
    return (await ledger.shards.of_run(RUN))[0]


async def test_a_run_is_cut_once_and_stays_cut_so(ledger: Ledger, clock: Clock):
    began = clock.time
    await cut(ledger, 3)
    clock.forward(60)
    await ledger.shards.cut(RUN, 5, clock.time)

    rows = await ledger.shards.of_run(RUN)
    assert [(row.number, row.of, row.began) for row in rows] == [(n, 3, began) for n in (1, 2, 3)]
    assert all(row.is_waiting and not row.tries for row in rows)
    assert await ledger.shards.of_run("run-2") == []


async def test_of_two_workers_at_once_one_gets_a_shard(ledger: Ledger, there: Desk):
    await cut(ledger)

    claims = await asyncio.gather(
        ledger.shards.claim(RUN, 1, 2), there.ledger.shards.claim(RUN, 1, 2)
    )

    assert sorted(claim is None for claim in claims) == [False, True]
    assert (await first(ledger)).is_running
    assert await there.ledger.shards.claim(RUN, 2, 2)


async def test_a_shard_whose_holder_is_gone_is_taken_up_and_the_old_holder_writes_nothing_more(
    ledger: Ledger, there: Desk, clock: Clock
):
    await cut(ledger)
    assert await ledger.shards.claim(RUN, 1, 2)
    clock.forward(LOCK_SECONDS - 1)
    assert await ledger.shards.renew(RUN, 1, {"persisted": 3})
    clock.forward(LOCK_SECONDS - 1)
    assert await there.ledger.shards.claim(RUN, 1, 2) is None
    clock.forward(2)
    assert (await first(ledger)).is_lost

    taken = await there.ledger.shards.claim(RUN, 1, 2)

    assert taken
    assert taken.progress == {"persisted": 3}
    assert not await ledger.shards.renew(RUN, 1, {"persisted": 4})
    assert not await ledger.shards.end(RUN, 1, {"persisted": 4}, [{"key": "old"}])
    assert await there.ledger.shards.end(RUN, 1, {"persisted": 5}, [{"key": "new"}])
    assert await ledger.shards.entries(RUN) == [{"key": "new"}]
    assert (await first(ledger)).progress == {"persisted": 5}
    clock.forward(LOCK_SECONDS * 2)
    assert (await first(ledger)).has_ended
    assert await ledger.shards.claim(RUN, 1, 2) is None


async def test_a_shard_that_was_let_go_is_free_at_once(ledger: Ledger, there: Desk):
    await cut(ledger)
    await ledger.shards.claim(RUN, 1, 2)
    await ledger.shards.release(RUN, 1)

    assert (await first(ledger)).is_lost
    await ledger.shards.given(RUN, 1, 2, "flow-2")
    row = await first(ledger)
    assert (row.is_waiting, row.tries, row.flow_run_id) == (True, 2, "flow-2")
    assert await there.ledger.shards.claim(RUN, 1, 2)
    await ledger.shards.given(RUN, 1, 2, "flow-2")
    assert (await first(ledger)).is_running


async def test_a_shard_that_was_cancelled_is_over_unless_somebody_works_on_it(
    ledger: Ledger, there: Desk, clock: Clock
):
    await cut(ledger)
    await ledger.shards.claim(RUN, 1, 2)
    await there.ledger.shards.cancelled(RUN, 1)
    assert (await first(ledger)).is_running

    clock.forward(LOCK_SECONDS + 1)
    await there.ledger.shards.cancelled(RUN, 1)

    row = await first(ledger)
    assert (row.has_ended, row.holder) == (True, None)
    assert not await ledger.shards.end(RUN, 1, {}, [{"key": "late"}])
    await ledger.shards.claim(RUN, 2, 2)
    await ledger.shards.end(RUN, 2, {}, [{"key": "made"}])
    await there.ledger.shards.cancelled(RUN, 2)
    assert await ledger.shards.entries(RUN) == [{"key": "made"}]


async def test_what_was_cut_otherwise_or_is_over_is_nobodys(ledger: Ledger, clock: Clock):
    await cut(ledger)
    assert await ledger.shards.claim(RUN, 1, 3) is None
    await ledger.shards.cancelled(RUN, 1)
    assert await ledger.shards.claim(RUN, 1, 2) is None

    clock.forward(31 * 86400)
    await ledger.shards.cut("run-2", 2, clock.time)
    assert await ledger.shards.of_run(RUN) == []
    await ledger.shards.forget("run-2")

    assert await ledger.shards.of_run("run-2") == []
    assert await ledger.shards.claim(RUN, 2, 2) is None
    await cut(ledger, 4)
    assert len(await ledger.shards.of_run(RUN)) == 4


async def test_a_run_that_was_told_to_stop_begins_no_shard(ledger: Ledger):
    await cut(ledger)
    await ledger.stop_run(RUN)
    assert await ledger.shards.claim(RUN, 1, 2) is None
    await ledger.open_run(RUN, "scenes")
    assert await ledger.shards.claim(RUN, 1, 2)


async def test_a_worker_with_another_ledger_is_told(ledger: Ledger):
    with pytest.raises(UsageError, match=r"does not know run run-1.*COMFYLINE_LEDGER_URL"):
        await ledger.shards.claim(RUN, 1, 2)
