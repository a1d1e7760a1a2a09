"""The state machine of a job, as a table: what may follow what, and what never may."""

import pytest

from comfyline.job import ALLOWED, JobState

STATES = (
    "planned submitting submitted in_queue in_progress completed persisted "
    "failed cancelled in_doubt expired"
)
PAID = ("submitted", "in_queue", "in_progress", "completed", "persisted", "in_doubt")


def reachable(start: JobState) -> set[JobState]:
    found, ahead = {start}, [start]
    while ahead:
        fresh = ALLOWED[ahead.pop()] - found
        found |= fresh
        ahead += fresh
    return found


def before(state: str) -> set[str]:
    return {one.value for one in JobState if JobState(state) in ALLOWED[one]}


def test_every_state_of_the_contract_is_reached_and_leads_to_an_end():
    assert [state.value for state in JobState] == STATES.split()
    assert reachable(JobState.PLANNED) == set(JobState) == set(ALLOWED)
    for state in JobState:
        assert state not in ALLOWED[state]
        assert reachable(state) & {JobState.FAILED, JobState.CANCELLED, JobState.PERSISTED}


@pytest.mark.parametrize("state", PAID)
def test_what_is_or_may_be_paid_for_never_leads_to_a_second_submission(state: str):
    assert not reachable(JobState(state)) & {JobState.PLANNED, JobState.SUBMITTING}


@pytest.mark.parametrize(
    ("state", "follows"),
    [
        ("submitting", "planned"),
        # Only the one who was submitting takes a submission back.
        ("planned", "submitting"),
        ("persisted", "completed expired"),
    ],
)
def test_a_state_follows_these_and_no_others(state: str, follows: str):
    assert before(state) == set(follows.split())


@pytest.mark.parametrize(
    ("state", "leads_to"),
    [
        ("persisted", ""),
        ("cancelled", ""),
        # It was taken for lost, and turns out to have been accepted.
        ("failed", "submitted"),
        ("in_doubt", "submitted failed"),
        ("expired", "completed persisted cancelled failed"),
    ],
)
def test_an_end_leads_nowhere_but_where_it_turns_out_to_be_none(state: str, leads_to: str):
    assert {one.value for one in ALLOWED[JobState(state)]} == set(leads_to.split())
