"""Several real processes at one ledger: one gets the claim, and a dead one loses nothing."""

import json
from collections import Counter
from datetime import UTC, datetime

import pytest

from comfyline.job import JobState
from comfyline.ledger.claims import Claimed, NotOurs
from comfyline.ledger.decision import LEASE_SECONDS, Decision
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.locks import LOCK_SECONDS
from tests.ledger.conftest import Clock, Desk, asked
from tests.ledger.processes import at_once, killed_after

ELSEWHERE = "far-away:7/another-machine/1/abc"


@pytest.fixture
def clock() -> Clock:
    """The children keep their leases by the true time."""
    clock = Clock()
    clock.time = datetime.now(UTC)
    return clock


def test_of_eight_processes_one_gets_each_claim_also_when_the_ledger_is_new(new_url: str):
    claims = [json.loads(mine) for mine in at_once(8, new_url, "own", "all", "50")]
    assert Counter(name for mine in claims for name in mine) == Counter(map(str, range(50)))


async def test_a_process_killed_in_the_middle_of_its_claim_leaves_nothing_locked_or_known(
    desk: Desk, ledger: Ledger, url: str
):
    killed_after(url, "own", "stuck", "the one")
    assert await ledger.list() == []
    assert isinstance(await desk.claim(asked("the one")), Claimed)


async def test_the_claim_of_a_process_killed_on_this_machine_is_in_doubt_at_once(
    desk: Desk, ledger: Ledger, url: str
):
    killed_after(url, "own", "claim", "the one")
    for refresh in (False, True):
        claim = await desk.claim(asked("the one"), "run-2", refresh=refresh)
        assert isinstance(claim, NotOurs)
        assert (claim.decision, claim.attempt.state) == (Decision.BLOCKED, JobState.IN_DOUBT)
    assert len(await ledger.list()) == 1


async def test_the_claim_of_a_process_killed_elsewhere_is_in_doubt_when_its_lease_is_over(
    desk: Desk, ledger: Ledger, url: str, clock: Clock
):
    killed_after(url, ELSEWHERE, "claim", "the one")
    early = await desk.claim(asked("the one"), "run-2")
    assert isinstance(early, NotOurs)
    assert early.decision is Decision.WAIT
    clock.time = datetime.now(UTC)
    clock.forward(LEASE_SECONDS)
    for refresh in (False, True):
        late = await desk.claim(asked("the one"), "run-2", refresh=refresh)
        assert isinstance(late, NotOurs)
        assert (late.decision, late.attempt.state) == (Decision.BLOCKED, JobState.IN_DOUBT)
    assert len(await ledger.list()) == 1


async def test_the_hold_of_a_process_killed_on_this_machine_is_taken_over_at_once(
    ledger: Ledger, url: str
):
    key = asked("the one").key
    killed_after(url, "own", "take", "the one")
    assert await ledger.unlocked([key]) == {key}
    assert await ledger.acquire(key)


async def test_the_hold_of_a_process_killed_elsewhere_is_taken_over_when_it_lapses(
    ledger: Ledger, url: str, clock: Clock
):
    key = asked("the one").key
    killed_after(url, ELSEWHERE, "take", "the one")
    assert not await ledger.acquire(key)
    clock.time = datetime.now(UTC)
    clock.forward(LOCK_SECONDS)
    assert await ledger.acquire(key)
