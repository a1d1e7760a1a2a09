"""Two profiles over one ledger: what a command does to its own, and says of the others'."""

import pytest

from comfyline.cli.main import run
from comfyline.config.account import Account
from comfyline.job import JobState
from tests.cli.conftest import Office, asked

PRODUCTION = Account("https://model-api.example", profile="production")


@pytest.fixture
def elsewhere(office: Office) -> str:
    """The key of a job of another account, whose submission is in doubt."""
    job = asked("another's")
    with office.at(PRODUCTION):
        office.doubted(job)
    return job.key


@pytest.mark.parametrize(
    "answer", [("resolve", "--lost"), ("resolve", "--request-id", "1"), ("cancel",)]
)
def test_another_accounts_job_is_not_touched_and_the_way_to_it_is_named(
    office: Office, elsewhere: str, answer: tuple[str, ...]
):
    command, *options = answer
    said = office.comfyline(command, elsewhere[:12], *options)

    assert said.code == 64
    assert f"Job {elsewhere[:12]} belongs to https://model-api.example" in said.stderr
    assert "--profile production" in said.stderr
    [attempt] = office.attempts()
    assert attempt.state is JobState.IN_DOUBT


def test_the_same_job_is_found_in_each_account(office: Office, elsewhere: str):
    office.doubted(asked("another's"))

    said = office.comfyline("resolve", elsewhere[:12], "--lost")

    assert said.code == 0
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
    assert [(one["origin"], one["account"], one["profile"]) for one in told] == [
        (office.sandbox.url, "default", office.account.profile),
        ("https://model-api.example", "default", "production"),
    ]
    assert told[1]["job"] == elsewhere


def test_the_default_profile_comes_from_the_environment_and_is_never_fallen_back_from(
    office: Office, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COMFYLINE_PROFILE", office.account.profile)
    office.submitted(asked("our own"), request_id="request-1")
    assert run(["cancel", "--pipeline", "scenes"]) == 1
    assert "request-1" in capsys.readouterr().err

    monkeypatch.setenv("COMFYLINE_PROFILE", "not-there")
    assert run(["jobs"]) == 64
    assert "There is no profile 'not-there'" in capsys.readouterr().err
