"""Slots divided among the values of a label, over processes: who has fewer finds one left."""

import asyncio
import time
from pathlib import Path
from typing import Any

from comfyline.job import CheckedJob, JobState
from comfyline.ledger.claims import AtCapacity, Claim, Claimed, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.slot_queue import Slots
from comfyline.run import CostLimits, Run
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.retry import RetryBudget
from tests.ledger.conftest import Clock, Desk, asked
from tests.ledger.processes import CONTEXT, at_once

TWO = Limits(in_flight=2)
MANY, FEW = "client=many", "client=few"


def of(client: str, number: int) -> CheckedJob:
    return asked(f"{client} {number}", labels={"client": client})


async def test_a_free_slot_is_left_for_whoever_waits_with_fewer(
    desk: Desk, there: Desk, ledger: Ledger
):
    first = await desk.submitted(of("many", 1), limits=TWO, share=MANY)
    await desk.submitted(of("many", 2), limits=TWO, share=MANY)
    refused = await there.claim(of("few", 1), limits=TWO, share=FEW)
    assert refused == AtCapacity()
    assert isinstance(refused, AtCapacity)
    assert refused.held == {MANY: 2}
    await ledger.completed(first, 0.1)
    assert await desk.asks(of("many", 3), limits=TWO, share=MANY) == "AtCapacity"
    assert await there.asks(of("few", 1), limits=TWO, share=FEW) == "CLAIMED"
    # Who waits no longer is waited for no longer.
    await ledger.completed((await ledger.slot_holders())[0].attempt_id, 0.1)
    assert await desk.asks(of("many", 3), limits=TWO, share=MANY) == "CLAIMED"


async def test_what_waits_in_the_same_process_counts_and_a_dead_one_is_waited_for_briefly(
    desk: Desk, there: Desk, ledger: Ledger, clock: Clock
):
    first = await desk.submitted(of("many", 1), limits=TWO, share=MANY)
    await desk.submitted(of("many", 2), limits=TWO, share=MANY)
    await ledger.completed(first, 0.1)
    both = {"limits": TWO, "share": MANY, "waiting": frozenset({FEW})}
    assert await desk.asks(of("many", 3), **both) == "AtCapacity"
    assert await there.asks(of("many", 3), limits=TWO, share=MANY) == "AtCapacity"
    # Those of no share, of other pipelines, take what is free.
    assert await there.asks(asked("nobody's"), limits=Limits(3)) == "CLAIMED"
    clock.forward(6)
    assert await there.asks(of("many", 3), limits=Limits(3), share=MANY) == "CLAIMED"


async def test_the_slots_of_a_run_in_shards_are_divided_too_and_hold_nobody_elsewhere_up(
    desk: Desk, there: Desk, ledger: Ledger
):
    of_run = Limits(in_flight=3, in_flight_of_run=2, timeout=60)
    first = await desk.submitted(of("many", 1), limits=of_run, share=MANY)
    await desk.submitted(of("many", 2), limits=of_run, share=MANY)
    assert await there.asks(of("few", 1), limits=of_run, share=FEW) == "AtCapacity"
    # The account has a slot, for which nobody waits.
    assert await desk.asks(of("many", 3), "run-2", limits=of_run, share=MANY) == "CLAIMED"
    await ledger.completed(first, 0.1)
    assert await desk.asks(of("many", 4), limits=of_run, share=MANY) == "AtCapacity"
    assert await there.asks(of("few", 1), limits=of_run, share=FEW) == "CLAIMED"


async def work_through(desk: Desk, argument: Any) -> None:
    """Takes one client's jobs through their slots, a tenth of a second each."""
    roles, begun, others_wait = argument
    client, jobs = roles.get()
    none = RuncomfyClient("http://127.0.0.1:9", "none", RetryBudget(0, time.monotonic))
    slots = Slots(desk.ledger, none, Path(), TWO.in_flight)
    run = Run(id=client, pipeline="p", in_flight=9, timeout=60, costs=CostLimits(), refresh=False)
    share = f"client={client}"

    async def make(number: int) -> None:
        job = of(client, number)
        assert await desk.ledger.acquire(job.key)
        claim: Claim = AtCapacity()
        while isinstance(claim, AtCapacity):
            async with slots.turn(run, share):
                claim = await slots.claim(job, share, run_id=client, refresh=False, limits=TWO)
                if isinstance(claim, AtCapacity):
                    await slots.wait(run)
        assert isinstance(claim, Claimed)
        await desk.ledger.accepted(claim.attempt_id, f"{client}-{number}")
        if client == "many":
            # Whichever was first.
            begun.put("many")
        await asyncio.to_thread(others_wait.wait, 60)
        await asyncio.sleep(0.1)
        await desk.ledger.completed(claim.attempt_id, 0.1)
        slots.freed()

    if client == "few":
        begun.get()
        others_wait.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*(make(number) for number in range(jobs)))


async def test_thirty_jobs_of_another_process_do_not_make_three_wait(desk: Desk, url: str):
    await desk.ledger.list()
    roles, begun = CONTEXT.SimpleQueue(), CONTEXT.SimpleQueue()
    for role in (("many", 30), ("few", 3)):
        roles.put(role)
    argument = roles, begun, CONTEXT.Event()
    await asyncio.to_thread(at_once, 2, work_through, url, argument)
    claimed = sorted(await desk.ledger.list(), key=lambda one: one.reached[JobState.SUBMITTING])
    clients = [one.checked.job.labels["client"] for one in claimed]
    assert (clients.count("many"), clients.count("few")) == (30, 3)
    # Half of the slots are theirs as soon as they wait: one of the others comes between two.
    first = clients.index("few")
    assert clients[first : first + 8].count("few") == 3, clients
    assert first < 20
