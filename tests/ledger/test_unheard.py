"""Commits whose answer is lost: whatever the database did, nothing is paid twice or forgotten."""

from unittest.mock import ANY

import pytest

from comfyline.errors import Unreachable
from comfyline.job import JobState
from comfyline.ledger.claims import Claimed
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Desk, asked, unheard_commits

JOB = asked()


async def test_ones_own_claim_whose_commit_was_not_heard_of_is_claimed_again_as_the_same(
    desk: Desk, ledger: Ledger, there: Desk
):
    with unheard_commits(ledger), pytest.raises(Unreachable, match="connection was lost"):
        await desk.claim(JOB)
    known = await desk.known(JOB)
    assert known.state is JobState.SUBMITTING
    assert await there.asks(JOB) == "WAIT", "another's is never given back for it"
    assert await desk.claim(JOB) == Claimed(known.id, 1, ANY)
    # This one was heard of, so that a third asker of the same process waits for its POST.
    assert await desk.asks(JOB) == "WAIT"


async def test_a_claim_given_back_unheard_is_free_for_anybody(desk: Desk, ledger: Ledger):
    attempt_id = await desk.claimed(JOB)
    with unheard_commits(ledger), pytest.raises(Unreachable):
        await desk.not_sent(attempt_id)
    assert await desk.claim(JOB, "run-2") == Claimed(attempt_id, 1, ANY)


async def test_a_claim_that_could_not_be_given_back_is_taken_up_by_the_same_process(
    desk: Desk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    attempt_id = await desk.claimed(JOB)

    async def fails(_: object) -> None:
        raise Unreachable("The database is away")

    with monkeypatch.context() as patched:
        patched.setattr(ledger.database, "run", fails)
        with pytest.raises(Unreachable):
            await desk.not_sent(attempt_id)
    assert await desk.claim(JOB) == Claimed(attempt_id, 1, ANY)


async def test_nobody_gives_back_a_claim_that_is_anothers_by_now(
    desk: Desk, ledger: Ledger, there: Desk
):
    attempt_id = await desk.claimed(JOB)
    with unheard_commits(ledger), pytest.raises(Unreachable):
        await desk.not_sent(attempt_id)
    assert await there.claim(JOB) == Claimed(attempt_id, 1, ANY)
    # Said again, because it was not heard the first time: a POST of the other may be under way.
    await desk.not_sent(attempt_id)
    assert await desk.asks(JOB) == "WAIT", "nor with what this process means to give back"
    known = await desk.known(JOB)
    assert (known.state, known.owner) == (JobState.SUBMITTING, "there:2")


async def test_a_request_id_that_was_written_down_unheard_may_be_written_again(
    desk: Desk, ledger: Ledger
):
    attempt_id = await desk.claimed(JOB)
    with unheard_commits(ledger), pytest.raises(Unreachable, match="accepted request r-1") as error:
        await ledger.accepted(attempt_id, "r-1")
    assert "--request-id r-1" in str(error.value)
    assert error.value.request_id == "r-1"
    await ledger.accepted(attempt_id, "r-1")
    known = await desk.known(JOB)
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "r-1")
