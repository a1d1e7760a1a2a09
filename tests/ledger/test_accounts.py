"""Whose a request is: what one account has is never taken for another's, counted with it or ended.

A ledger of before accounts says of no attempt whose it is: such are looked for by everybody.
"""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import create_engine, make_url, text

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.job import JobState
from comfyline.ledger.claims import AtCapacity, BudgetExceeded, Claimed, Limits, NotOurs
from comfyline.ledger.decision import Decision
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
    await at(other).stored(JOB)
    mine = at(PAID)
    assert await mine.ledger.find([JOB.key]) == {}
    assert await mine.ledger.summaries([JOB.key]) == {}
    assert isinstance(await mine.claim(JOB), Claimed)


async def test_each_account_goes_on_with_its_own_attempt(at: Opens):
    sandbox, paid = at(SANDBOX), at(PAID)
    await sandbox.stored(JOB)
    await paid.submitted(JOB)
    assert (await sandbox.known(JOB)).state is JobState.PERSISTED
    assert (await paid.known(JOB)).state is JobState.SUBMITTED
    again = await sandbox.claim(JOB)
    assert isinstance(again, NotOurs)
    assert again.decision is Decision.REUSE
    assert [one.account for one in await paid.ledger.list()] == [PAID]
    assert [one.account for one in await paid.ledger.list(of_all=True)] == [PAID, SANDBOX]


async def test_a_claim_that_was_given_back_is_taken_anew_beside_another_accounts(at: Opens):
    await at(SANDBOX).stored(JOB)
    paid = at(PAID)
    await paid.ledger.not_sent(await paid.claimed(JOB))
    assert (await paid.known(JOB)).state is JobState.PLANNED
    await paid.submitted(JOB, "run-2")
    assert (await paid.known(JOB)).state is JobState.SUBMITTED


async def test_slots_and_money_are_counted_by_account(at: Opens):
    await at(SANDBOX).submitted(asked("one"))
    narrow = Limits(in_flight=1, max_cost_usd_per_day=0.6)
    paid = at(PAID)
    assert isinstance(await paid.claim(asked("two"), limits=narrow), Claimed)
    assert isinstance(await paid.claim(asked("three"), limits=narrow), AtCapacity)
    wide = Limits(in_flight=9, max_cost_usd_per_day=0.6)
    assert isinstance(await paid.claim(asked("three"), limits=wide), BudgetExceeded)


async def test_the_same_id_at_another_origin_is_another_request(at: Opens):
    await at(SANDBOX).submitted(JOB, request_id="7")
    paid = at(PAID)
    await paid.submitted(JOB, request_id="7")
    assert [one.request_id for one in await paid.ledger.list(of_all=True)] == ["7", "7"]


async def test_two_accounts_do_not_wait_for_each_other(at: Opens):
    sandbox, paid = at(SANDBOX), at(PAID)
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
    paid = at(PAID)
    await paid.submitted(asked("one"))
    await paid.submitted(asked("two"))
    await paid.stored(asked("three"))
    sandbox = at(SANDBOX).ledger
    [(account, number)] = (await sandbox.unfinished_elsewhere()).items()
    assert (account, account.profile, number) == (PAID, "production", 2)
    assert list(await sandbox.unfinished()) == []
    assert await paid.ledger.unfinished_elsewhere() == {}


async def test_what_nobody_knows_whose_it_is_is_paid_for_by_nobody_again(at: Opens):
    await at(None).stored(JOB)
    for account in (PAID, SANDBOX):
        claim = await at(account).claim(JOB)
        assert isinstance(claim, NotOurs)
        assert claim.decision is Decision.REUSE


async def test_an_answer_tells_whose_an_attempt_is(at: Opens):
    attempt_id = await at(None).submitted(JOB)
    paid = at(PAID)
    await paid.ledger.observed(attempt_id, JobState.IN_PROGRESS)
    assert (await paid.known(JOB)).account == PAID
    assert await at(SANDBOX).ledger.find([JOB.key]) == {}


async def test_the_sandboxs_own_memory_tells_what_was_its(at: Opens):
    older = at(None)
    await older.submitted(asked("drawn here"), request_id="mine")
    await older.submitted(asked("elsewhere"), request_id="not mine")
    assert await at(PAID).ledger.adopt(SANDBOX, lambda: {"mine", "never heard of"}) == 1
    by_id = {one.request_id: one.account for one in await older.ledger.list()}
    assert by_id == {"mine": SANDBOX, "not mine": None}

    def asked_once() -> set[str]:
        raise AssertionError("nothing is left to adopt")

    await at(PAID).ledger.observed((await older.known(asked("elsewhere"))).id, JobState.IN_QUEUE)
    assert await at(PAID).ledger.adopt(SANDBOX, asked_once) == 0


async def test_an_older_version_beside_this_one_goes_on_writing(at: Opens, url: str):
    paid = at(PAID)
    attempt_id = await paid.submitted(JOB)
    parsed = make_url(url)
    driver = {"postgresql": "postgresql+psycopg"}.get(parsed.drivername, parsed.drivername)
    engine = create_engine(parsed.set(drivername=driver))
    with engine.begin() as connection:
        # As it holds a job, and as it writes an attempt of another one.
        connection.execute(text("UPDATE jobs SET held_by = 'older:1', held_until = NULL"))
        connection.execute(
            text(
                "INSERT INTO attempts (key, number, state, pipeline, item, step, request, run_id,"
                " created_at, updated_at) SELECT key, 2, 'failed', pipeline, item, step, request,"
                " run_id, created_at, updated_at FROM attempts"
            )
        )
    engine.dispose()
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
