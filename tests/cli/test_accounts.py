"""Two profiles over one ledger: what a command does to its own, and says of the others'."""

import pytest

from comfyline.config.account import Account
from comfyline.job import JobState
from tests.cli.conftest import Comfyline, Office, asked

PRODUCTION = Account("https://model-api.example", profile="production")


@pytest.fixture
def elsewhere(office: Office) -> str:
    """The key of a job of another account, whose submission is in doubt."""
    job = asked("another's")
    with office.at(PRODUCTION):
        office.doubted(job)
    return job.key


@pytest.mark.parametrize("answer", [("resolve", "--lost"), ("cancel",)])
def test_another_accounts_job_is_not_touched_and_the_way_to_it_is_named(
    office: Office, elsewhere: str, answer: tuple[str, ...]
):
    command, *options = answer
    said = office.comfyline(command, elsewhere[:12], *options)

    assert said.code == 64
    assert f"Job {elsewhere[:12]} belongs to https://model-api.example" in said.stderr
    assert "--profile production" in said.stderr
    assert [one.state for one in office.attempts()] == [JobState.IN_DOUBT]


def test_the_same_job_is_found_in_each_account(office: Office, elsewhere: str):
    office.doubted(asked("another's"))

    assert office.comfyline("resolve", elsewhere[:12], "--lost").code == 0

    states = {attempt.account: attempt.state for attempt in office.attempts()}
    assert states == {PRODUCTION: JobState.IN_DOUBT, office.account: JobState.FAILED}


@pytest.mark.parametrize("command", [("audit",), ("cancel", "--pipeline", "scenes")])
def test_what_others_left_unfinished_is_counted_and_left_alone(
    office: Office, elsewhere: str, command: tuple[str, ...]
):
    office.submitted(asked("our own"))

    said = office.comfyline(*command)

    assert "1 unfinished job of https://model-api.example left untouched" in said.stderr
    assert "`comfyline reconcile --profile production`" in said.stderr
    assert elsewhere[:12] not in said.stdout


def test_the_list_of_all_says_where_each_was_asked_for(office: Office, elsewhere: str):
    assert "https://model-api.example" not in office.comfyline("jobs").stdout
    office.submitted(asked("our own"))

    listed = office.comfyline("jobs")
    told = office.comfyline("jobs", "--json").json

    assert "https://model-api.example" in listed.stdout
    assert f"`comfyline resolve JOB --profile {PRODUCTION.profile}`" in listed.stderr
    assert [(one["job"], one["origin"], one["account"], one["profile"]) for one in told] == [
        (told[0]["job"], office.sandbox.url, "default", office.account.profile),
        (elsewhere, "https://model-api.example", "default", "production"),
    ]


def test_the_default_profile_comes_from_the_environment_and_is_never_fallen_back_from(
    office: Office, monkeypatch: pytest.MonkeyPatch, comfyline: Comfyline
):
    monkeypatch.setenv("COMFYLINE_PROFILE", office.account.profile)
    office.submitted(asked("our own"), request_id="request-1")
    cancelled = comfyline("cancel", "--pipeline", "scenes")
    assert (cancelled.code, "request-1" in cancelled.stderr) == (1, True)

    monkeypatch.setenv("COMFYLINE_PROFILE", "not-there")
    listed = comfyline("jobs")
    assert (listed.code, "There is no profile 'not-there'" in listed.stderr) == (64, True)
