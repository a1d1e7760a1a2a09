"""What a ledger shows to whoever watches it, and which limits a claim was near to."""

from comfyline.job import JobState
from comfyline.ledger.claims import Claimed, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.progress import BudgetUsed
from tests.ledger.conftest import Clock, Desk, asked

DAY = 86400


async def test_jobs_are_counted_by_what_waits_and_by_what_the_day_made(
    desk: Desk, ledger: Ledger, clock: Clock
):
    await ledger.open_run("run-1", "scenes")
    await desk.stored(asked("of yesterday"))
    waiting = clock()
    await desk.submitted(asked("waiting"))
    clock.forward(DAY)
    await desk.stored(asked("of today"), cost=0.25)
    await desk.failed(asked("failed"))
    await desk.in_doubt(asked("a doubt"))
    await desk.submitted(asked("another waits"))
    await ledger.run_completed("run-1")

    shown = await ledger.standing()

    assert {state: jobs for state, jobs in shown.unfinished.items() if jobs} == {
        JobState.SUBMITTED: 2
    }
    assert (shown.in_doubt, shown.oldest_unstored) == (1, waiting)
    assert shown.today["scenes", JobState.PERSISTED] == (1, 0.25)
    assert {state: jobs for (_, state), (jobs, _) in shown.today.items()} == {
        JobState.PERSISTED: 1,
        JobState.FAILED: 1,
        JobState.IN_DOUBT: 1,
        JobState.SUBMITTED: 1,
    }
    assert shown.completed == {"scenes": clock()}


async def test_an_empty_ledger_shows_that_nothing_waits(ledger: Ledger):
    shown = await ledger.standing()
    assert set(shown.unfinished.values()) == {0}
    assert (shown.in_doubt, shown.oldest_unstored, shown.today, shown.completed) == (
        0,
        None,
        {},
        {},
    )


async def test_a_claim_tells_how_much_of_each_limit_is_used_with_it(desk: Desk):
    limits = Limits(1000, max_cost_usd=2, max_cost_usd_per_day=4)
    await desk.claimed(asked("first"), limits=limits)
    claim = await desk.claim(asked("second"), limits=limits)
    assert isinstance(claim, Claimed)
    assert claim.budgets == (BudgetUsed("run", 2, 1.0), BudgetUsed("day", 4, 1.0))
    none = await desk.claim(asked("third"))
    assert isinstance(none, Claimed)
    assert none.budgets == ()
