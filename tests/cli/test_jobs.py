"""jobs, status and cancel: what is there, how urgent it is, and what is stopped of it."""

from collections.abc import Callable

import pytest

from comfyline.job import JobState
from tests.cli.conftest import Office, ago, asked
from tests.conftest import Sandbox


def test_doubts_are_listed_with_when_and_what(office: Office):
    job = asked("a doubt")
    office.doubted(job, at=ago(hours=2))
    office.submitted(asked("no doubt"), run_id="run-2")

    listed = office.comfyline("jobs", "--state", "in_doubt")

    assert listed.code == 0
    [row] = [line for line in listed.stdout.splitlines() if job.key[:12] in line]
    for part in (job.job.model_id, "2 h 00 min", "the body was sent"):
        assert part in row
    assert "comfyline resolve" in listed.stderr
    [told] = office.comfyline("jobs", "--state", "in_doubt", "--json").json
    assert (told["doubt"]["how_far"], told["estimate_usd"]) == ("body_sent", 0.14)
    [other] = office.comfyline("jobs", "--run", "run-2", "--json").json
    assert (other["run_id"], other["doubt"]) == ("run-2", None)


@pytest.mark.parametrize("command", ["jobs", "status"])
def test_what_runcomfy_will_delete_in_hours_is_said(office: Office, command: str):
    late, fine, gone = asked("nearly gone"), asked("fresh"), asked("late")
    office.submitted(late, at=ago(days=6, hours=19))
    office.submitted(fine)
    office.submitted(gone, at=ago(days=8))

    said = office.comfyline(command, "--json")

    assert said.code == 0
    assert "ONLY 4 h LEFT" in said.stderr
    assert "7 DAYS ARE OVER" in said.stderr
    assert late.key[:12] in said.stderr
    assert fine.key[:12] not in said.stderr
    if command == "status":
        risks = {one["job"]: one for one in said.json["at_risk"]}
        assert risks.keys() == {late.key, gone.key}
        assert risks[late.key]["urgency"] == "last_hours"
        assert 4.5 < risks[late.key]["hours_left"] <= 5


def test_a_ledger_that_cannot_be_read_hides_no_stack(office: Office):
    (office.folder / "home/ledger.sqlite3").write_bytes(b"no database" * 1000)

    said = office.comfyline("status", "--json")

    assert said.code == 0
    assert {one["name"] for one in said.json["services"]} == {"prefect", "storage", "sandbox"}
    assert "cannot be used" in said.stderr


def test_a_whole_pipeline_is_stopped_and_what_is_queued_cancelled(
    office: Office, files: str, start_sandbox: Callable[..., Sandbox]
):
    office.sandbox = start_sandbox(slots=1)
    office.write_profile()
    office.sandbox.order(on="generation", kind="delay", seconds=600)
    running, *queued = [office.sandbox.submit(f"{n}", f"{files}/cat.jpg") for n in range(3)]
    office.sandbox.until(lambda: office.sandbox.status(running)["status"] == "in_progress")
    for place, request_id in enumerate([running, *queued]):
        office.submitted(asked(f"job {place}"), request_id, run_id="run-1")
    office.submitted(asked("of another", pipeline="another"), "another-request", run_id="run-2")
    office.ledger(lambda ledger: ledger.open_run("run-1", "scenes"))
    office.ledger(lambda ledger: ledger.open_run("run-2", "another"))

    ended = office.comfyline("cancel", "--pipeline", "scenes")

    assert ended.code == 1
    assert ended.stderr.count("is cancelled.") == 2
    assert ended.stderr.count("is not cancellable.") == 1
    assert "comfyline reconcile" in ended.stderr
    states = {one.request_id: one.state for one in office.attempts()}
    assert {states[one] for one in queued} == {JobState.CANCELLED}
    assert states[running] is states["another-request"] is JobState.SUBMITTED
    assert office.ledger(lambda ledger: ledger.is_stopped("run-1"))
    assert not office.ledger(lambda ledger: ledger.is_stopped("run-2"))


def test_a_run_that_has_nothing_at_runcomfy_is_stopped_all_the_same(office: Office):
    office.ledger(lambda ledger: ledger.open_run("run-1", "scenes"))

    ended = office.comfyline("cancel", "--run", "run-1")

    assert (ended.code, "submits nothing more" in ended.stderr) == (0, True)
    assert office.ledger(lambda ledger: ledger.is_stopped("run-1"))


def test_what_is_to_be_cancelled_is_said_once_and_is_known(office: Office):
    by_beginning: dict[str, str] = {}
    for number in range(17):
        key = asked(f"many {number}").key
        if by_beginning.setdefault(key[0], f"many {number}") != f"many {number}":
            break
    for prompt in (by_beginning[key[0]], f"many {number}"):
        office.submitted(asked(prompt))

    for arguments, said in {
        (): "Name what to cancel",
        ("abc", "--run", "run-1"): "Name what to cancel",
        ("--run", "no-such-run"): "knows no run",
        (key[0],): "2 job keys begin with",
    }.items():
        ended = office.comfyline("cancel", *arguments)
        assert (ended.code, said in ended.stderr) == (64, True)
