"""Several real processes at one ledger: one gets the claim, and a dead one loses nothing."""

import os
from collections import Counter
from datetime import UTC, datetime

import pytest

from comfyline.files import is_dead, this_process
from comfyline.ledger.decision import LEASE_SECONDS
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Clock, Desk, asked
from tests.ledger.processes import at_once, claim_all, claim_and_lock, killed_after, stop_in_a_claim

JOB = asked()
PROMPT = "a cat"


@pytest.fixture
def clock() -> Clock:
    """The children keep their leases by the true time."""
    clock = Clock()
    clock.time = datetime.now(UTC)
    return clock


def changed(name: str, part: int, to: str) -> str:
    parts = name.rsplit("/", 3)
    parts[part] = to
    return "/".join(parts)


def test_of_several_processes_one_gets_each_claim_also_when_the_ledger_is_new(new_url: str):
    claims = at_once(6, claim_all, new_url, 20)
    assert Counter(job for mine in claims for job in mine) == Counter(range(20))


async def test_a_process_killed_in_the_middle_of_its_claim_leaves_nothing_locked_or_known(
    desk: Desk, ledger: Ledger, url: str
):
    await ledger.list()
    killed_after(stop_in_a_claim, url, PROMPT)
    assert await ledger.list() == []
    assert await desk.asks(JOB) == "CLAIMED"


async def test_what_a_process_killed_on_this_machine_claimed_and_locked_is_known_at_once(
    desk: Desk, ledger: Ledger, url: str
):
    await ledger.list()
    assert is_dead(killed_after(claim_and_lock, url, PROMPT))
    for refresh in (False, True):
        assert await desk.asks(JOB, "run-2", refresh=refresh) == "BLOCKED"
    assert [one.state for one in await ledger.list()] == ["in_doubt"]
    assert await ledger.unlocked([JOB.key]) == {JOB.key}
    assert await ledger.acquire(JOB.key)


async def test_what_a_process_killed_elsewhere_claimed_and_locked_lapses(
    desk: Desk, ledger: Ledger, url: str, clock: Clock
):
    await ledger.list()
    killed_after(claim_and_lock, url, PROMPT, "far-away:7/another-machine/1/abc")
    assert await desk.asks(JOB, "run-2") == "WAIT"
    assert not await ledger.acquire(JOB.key)
    clock.time = datetime.now(UTC)
    clock.forward(LEASE_SECONDS)
    assert await desk.asks(JOB, "run-2", refresh=True) == "BLOCKED"
    assert [one.state for one in await ledger.list()] == ["in_doubt"]
    assert await ledger.acquire(JOB.key)


def test_only_a_process_of_this_boot_that_is_gone_is_dead():
    """The same number started at another time is another process."""
    name = this_process()
    assert f":{os.getpid()}/" in name
    assert name != this_process()
    gone = changed(name, 2, "1")
    assert is_dead(gone)
    alive = [name, changed(gone, 1, "another-machine"), changed(gone, 1, "")]
    alive += [changed(name, 0, f"host:{no}") for no in ("0", "-1", "99999999999999999999", "1e9")]
    says_too_little = [None, "", "here:1", "a/b/c/d", "host:1/machine", "///"]
    assert [one for one in (*alive, *says_too_little) if is_dead(one)] == []
