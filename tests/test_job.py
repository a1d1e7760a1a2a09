"""The state machine of a job, as a table: what may follow what, and what never may."""

import pytest

from comfyline.job import ALLOWED, JobState

ENDS = {JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
PAID = {
    JobState.SUBMITTED,
    JobState.IN_QUEUE,
    JobState.IN_PROGRESS,
    JobState.COMPLETED,
    JobState.PERSISTED,
}


def reachable(start: JobState) -> set[JobState]:
    found, ahead = {start}, [start]
    while ahead:
        fresh = ALLOWED[ahead.pop()] - found
        found |= fresh
        ahead += fresh
    return found


def test_every_state_of_the_contract_is_there_and_says_where_it_may_go():
    names = "planned submitting submitted in_queue in_progress completed persisted"
    ends = "failed cancelled in_doubt expired"
    assert {state.value for state in JobState} == {*names.split(), *ends.split()}
    assert set(ALLOWED) == set(JobState)


def test_every_state_is_reached_from_planned():
    assert reachable(JobState.PLANNED) == set(JobState)


@pytest.mark.parametrize("state", JobState)
def test_no_state_is_a_trap_without_an_end(state: JobState):
    assert reachable(state) & (ENDS | {JobState.PERSISTED})


@pytest.mark.parametrize("state", sorted({JobState.CANCELLED, JobState.PERSISTED}))
def test_nothing_follows_an_end(state: JobState):
    assert not ALLOWED[state]


def test_what_expired_may_turn_up_after_all_or_be_given_up():
    turns_up = {JobState.COMPLETED, JobState.PERSISTED}
    assert ALLOWED[JobState.EXPIRED] == turns_up | {JobState.CANCELLED, JobState.FAILED}


def test_what_was_taken_for_lost_may_turn_out_to_be_accepted_and_no_other_failure_is_undone():
    assert ALLOWED[JobState.FAILED] == {JobState.SUBMITTED}


def test_a_submission_begins_in_planned_and_nowhere_else():
    assert [state for state in JobState if JobState.SUBMITTING in ALLOWED[state]] == [
        JobState.PLANNED
    ]


@pytest.mark.parametrize("state", sorted(PAID | {JobState.IN_DOUBT}))
def test_what_is_or_may_be_paid_for_never_leads_to_a_second_submission(state: JobState):
    assert not reachable(state) & {JobState.PLANNED, JobState.SUBMITTING}


def test_only_the_one_who_was_submitting_takes_a_submission_back():
    assert [state for state in JobState if JobState.PLANNED in ALLOWED[state]] == [
        JobState.SUBMITTING
    ]


def test_a_doubt_ends_with_the_request_or_with_its_loss():
    assert ALLOWED[JobState.IN_DOUBT] == {JobState.SUBMITTED, JobState.FAILED}


def test_stored_is_only_what_was_completed_or_turned_up_after_all():
    assert [state for state in JobState if JobState.PERSISTED in ALLOWED[state]] == [
        JobState.COMPLETED,
        JobState.EXPIRED,
    ]


def test_no_state_follows_itself():
    assert not [state for state in JobState if state in ALLOWED[state]]
