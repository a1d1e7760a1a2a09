import json
from collections.abc import Callable

from comfyline.job import JobState
from tests.cli.conftest import Office, ago, asked
from tests.conftest import Sandbox


def test_doubts_are_listed_with_when_and_what(office: Office):
    job = asked("a doubt")
    office.doubted(job, at=ago(hours=2))
    office.submitted(asked("no doubt"))

    listed = office.comfyline("jobs", "--state", "in_doubt")

    assert listed.code == 0
    [row] = [line for line in listed.stdout.splitlines() if job.key[:12] in line]
    assert job.job.model_id in row
    assert "2 h 00 min" in row
    assert "the body was sent" in row
    assert "comfyline resolve" in listed.stderr
    [told] = office.comfyline("jobs", "--state", "in_doubt", "--json").json
    assert told["doubt"]["how_far"] == "body_sent"
    assert told["estimate_usd"] == 0.14


def test_the_jobs_of_one_run_are_listed_alone(office: Office):
    office.submitted(asked("one"), run_id="run-1")
    office.submitted(asked("two"), run_id="run-2")

    [row] = office.comfyline("jobs", "--run", "run-2", "--json").json

    assert row["run_id"] == "run-2"


def test_what_runcomfy_will_delete_in_hours_is_said_by_jobs_and_status(office: Office):
    late, fine = asked("nearly gone"), asked("fresh")
    office.submitted(late, at=ago(days=6, hours=19))
    office.submitted(fine)

    for command in ("jobs", "status"):
        said = office.comfyline(command)
        assert said.code == 0
        assert "ONLY 4 h LEFT" in said.stderr
        assert late.key[:12] in said.stderr
        assert fine.key[:12] not in said.stderr

    [risk] = office.comfyline("status", "--json").json["at_risk"]
    assert (risk["job"], risk["urgency"]) == (late.key, "last_hours")
    assert 4.5 < risk["hours_left"] <= 5


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
    running, *queued = [office.sandbox.submit(f"{n}", f"{files}/cat.jpg") for n in range(4)]
    office.sandbox.until(lambda: office.sandbox.status(running)["status"] == "in_progress")
    for place, request_id in enumerate([running, *queued]):
        office.submitted(asked(f"job {place}"), request_id, run_id="run-1")
    office.submitted(asked("of another", pipeline="another"), "another-request", run_id="run-2")
    office.ledger(lambda ledger: ledger.open_run("run-1", "scenes"))
    office.ledger(lambda ledger: ledger.open_run("run-2", "another"))

    ended = office.comfyline("cancel", "--pipeline", "scenes")

    assert ended.code == 1
    assert ended.stderr.count("is cancelled.") == 3
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
    assert office.comfyline("cancel").code == 64
    assert office.comfyline("cancel", "abc", "--run", "run-1").code == 64
    unknown = office.comfyline("cancel", "--run", "no-such-run")
    assert (unknown.code, "knows no run" in unknown.stderr) == (64, True)


def test_two_keys_with_one_beginning_are_told_apart(office: Office):
    by_beginning = {}
    for number in range(17):
        job = asked(f"many {number}")
        other = by_beginning.setdefault(job.key[0], job)
        if other is not job:
            break
    office.submitted(job)
    office.submitted(other)

    ended = office.comfyline("cancel", job.key[0])

    assert ended.code == 64
    assert "job keys begin with" in ended.stderr


def test_json_is_one_value_on_stdout(office: Office):
    office.submitted(asked("late"), at=ago(days=8))

    said = office.comfyline("jobs", "--json")

    assert len(json.loads(said.stdout)) == 1
    assert "7 DAYS ARE OVER" in said.stderr
