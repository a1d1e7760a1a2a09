"""Whose a request is: what one account has is never taken for another's, counted with it or ended.

A ledger of before accounts says of no attempt whose it is: such are looked for by everybody.
"""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.job import JobState
from comfyline.ledger.claims import Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from tests.ledger.conftest import Clock, Desk, asked, output

SANDBOX = Account(LOCAL_SANDBOX, profile="sandbox")
PAID = Account("https://model-api.example", profile="production")
OTHER_TEAM = Account("https://model-api.example", "team-b", profile="team-b")
JOB = asked("a cat")

Opens = Callable[[Account | None], Desk]


@pytest.fixture
def at(url: str, clock: Clock) -> Iterator[Opens]:
    """Opens the same ledger for an account."""
    opened: list[Ledger] = []

    def open_for(account: Account | None) -> Desk:
        opened.append(Ledger(url, f"here:{len(opened)}", clock, account=account))
        return Desk(opened[-1])

    yield open_for
    for ledger in opened:
        ledger.close()


@pytest.mark.parametrize("other", [SANDBOX, OTHER_TEAM], ids=["another origin", "another account"])
async def test_what_is_stored_for_one_account_is_submitted_for_another(at: Opens, other: Account):
    theirs, mine = at(other), at(PAID)
    await theirs.stored(JOB)
    assert await mine.ledger.find([JOB.key]) == await mine.ledger.summaries([JOB.key]) == {}
    # A claim that never left is taken up again beside the other's.
    await mine.not_sent(await mine.claimed(JOB))
    assert await mine.state(JOB) is JobState.PLANNED
    await mine.submitted(JOB, "run-2", "mine")
    assert await mine.state(JOB) is JobState.SUBMITTED
    assert await theirs.asks(JOB) == "REUSE"
    assert [one.account for one in await mine.ledger.list()] == [PAID]
    assert [one.account for one in await mine.ledger.list(of_all=True)] == [PAID, other]


async def test_slots_money_locks_and_ids_are_counted_by_account(at: Opens):
    sandbox, paid = at(SANDBOX), at(PAID)
    await sandbox.submitted(asked("one"), request_id="7")
    narrow = Limits(in_flight=1, max_cost_usd_per_day=0.6)
    await paid.submitted(asked("two"), request_id="7", limits=narrow)
    assert await paid.asks(asked("three"), limits=narrow) == "AtCapacity"
    wide = Limits(in_flight=9, max_cost_usd_per_day=0.6)
    assert await paid.asks(asked("three"), limits=wide) == "day has 0.5"
    assert [one.request_id for one in await paid.ledger.list(of_all=True)] == ["7", "7"]
    assert await sandbox.ledger.acquire(JOB.key)
    assert await paid.ledger.acquire(JOB.key)
    assert not await at(PAID).ledger.acquire(JOB.key)


async def test_a_pipeline_is_stopped_for_its_own_account(at: Opens):
    sandbox, paid = at(SANDBOX).ledger, at(PAID).ledger
    await sandbox.open_run("run-1", "scenes")
    await paid.open_run("run-2", "scenes")
    assert not await sandbox.stop_run("run-2")
    assert await sandbox.stop_pipeline("scenes") == 1
    assert not await paid.is_stopped("run-2")


async def test_what_others_have_unfinished_is_counted_with_the_profile_that_reaches_it(at: Opens):
    paid, sandbox = at(PAID), at(SANDBOX).ledger
    await paid.submitted(asked("one"))
    await paid.submitted(asked("two"))
    await paid.stored(asked("three"))
    [(account, number)] = (await sandbox.unfinished_elsewhere()).items()
    assert (account, account.profile, number) == (PAID, "production", 2)
    assert list(await sandbox.unfinished()) == []
    assert await paid.ledger.unfinished_elsewhere() == {}


async def test_what_nobody_knows_whose_it_is_is_paid_for_by_nobody_again(at: Opens):
    await at(None).stored(JOB)
    for account in (PAID, SANDBOX):
        assert await at(account).asks(JOB) == "REUSE"


async def test_an_answer_or_the_sandboxs_own_memory_tells_whose_an_attempt_is(at: Opens):
    older, paid = at(None), at(PAID)
    await older.submitted(asked("drawn here"), request_id="mine")
    elsewhere = await older.submitted(asked("elsewhere"), request_id="not mine")
    assert await paid.ledger.adopt(SANDBOX, lambda: {"mine", "never heard of"}) == 1
    by_id = {one.request_id: one.account for one in await older.ledger.list()}
    assert by_id == {"mine": SANDBOX, "not mine": None}
    await paid.ledger.observed(elsewhere, JobState.IN_QUEUE)
    assert (await paid.known(asked("elsewhere"))).account == PAID
    assert await at(SANDBOX).ledger.find([asked("elsewhere").key]) == {}

    def asked_once() -> set[str]:
        raise AssertionError("nothing is left to adopt")

    assert await paid.ledger.adopt(SANDBOX, asked_once) == 0


async def test_an_older_version_beside_this_one_goes_on_writing(at: Opens):
    paid = at(PAID)
    attempt_id = await paid.submitted(JOB)
    # As it holds a job, and as it writes an attempt of another one.
    holds = "UPDATE jobs SET held_by = 'older:1', held_until = NULL"
    writes = """
        INSERT INTO attempts (key, number, state, pipeline, item, step, request, run_id, created_at,
            updated_at)
        SELECT key, 2, 'failed', pipeline, item, step, request, run_id, created_at, updated_at
        FROM attempts
    """
    for statement in (holds, writes):
        await paid.ledger.database.run(lambda c, s=statement: c.execute(text(s)))
    assert await paid.ledger.acquire(JOB.key)
    found = await paid.ledger.list(Selection(key_prefix=JOB.key))
    assert [(one.number, one.account) for one in found] == [(2, None), (1, PAID)]
    await paid.ledger.completed(attempt_id, 0.4)
    await paid.ledger.persisted(attempt_id, [output()])


async def test_a_ledger_made_anew_is_another_one(at: Opens, clock: Clock):
    here = at(PAID).ledger
    fresh = Ledger("sqlite://", "here:1", clock)
    assert await here.identity() == await at(SANDBOX).ledger.identity()
    assert await here.identity() != await fresh.identity()
    fresh.close()
