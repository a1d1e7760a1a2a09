import pytest

from comfyline.job import JobState
from tests.cli.conftest import Office, ago, asked


def test_without_an_answer_the_question_is_shown_and_an_answer_is_owed(office: Office):
    job = asked("a doubt with facts")
    office.doubted(job)

    shown = office.comfyline("resolve", job.key[:12])

    assert shown.code == 64
    assert "the body was sent; the answer never came" in shown.stderr
    assert "ReadError" in shown.stderr
    assert f"comfyline resolve {job.key[:12]} --lost" in shown.stderr
    assert office.attempts()[0].state is JobState.IN_DOUBT


def test_the_question_can_be_read_by_a_program(office: Office):
    job = asked("a doubt for a program")
    office.doubted(job, how_far=None)

    [doubt] = office.comfyline("resolve", job.key, "--json").json["doubts"]

    assert (doubt["job"], doubt["how_far"]) == (job.key, None)
    assert len(doubt["answers"]) == 2
    assert any("may not even have left" in fact["text"] for fact in doubt["facts"])


@pytest.mark.parametrize(("requests", "advice"), [(2, "accepted"), (1, "never accepted")])
def test_the_balance_speaks_for_what_the_other_requests_do_not_explain(
    office: Office, files: str, requests: int, advice: str
):
    before = office.sandbox.account()["balance_usd"]
    job, other = asked("a doubt about money"), asked("another")
    office.doubted(job, balance_usd=before)
    office.stored(other, office.generated("another", f"{files}/cat.jpg"))
    if requests == 2:
        office.generated("a doubt about money", f"{files}/cat.jpg")

    [doubt] = office.comfyline("resolve", job.key, "--json").json["doubts"]

    [fact] = [fact for fact in doubt["facts"] if fact["name"] == "balance"]
    assert fact["speaks_for"] == advice
    assert [one["job"] for one in doubt["others"]] == [other.key]
    assert doubt["spent_usd"] == pytest.approx(0.14 * requests)


def test_several_lost_submissions_are_answered_at_once(office: Office):
    jobs = [asked("lost one"), asked("lost two")]
    for job in jobs:
        office.doubted(job)

    ended = office.comfyline("resolve", *(job.key for job in jobs), "--lost", "--json")

    assert ended.code == 0
    assert {one["job"] for one in ended.json["resolved"]} == {job.key for job in jobs}
    assert {one.state for one in office.attempts()} == {JobState.FAILED}
    assert "submits it again and pays about $0.14" in ended.stderr


def test_a_fitting_request_is_adopted_and_counts_from_when_its_post_left(
    office: Office, files: str
):
    job = asked("found again")
    office.doubted(job)
    request_id = office.generated("found again", f"{files}/cat.jpg")

    ended = office.comfyline("resolve", job.key, "--request-id", request_id)

    assert ended.code == 0, ended.stderr
    [attempt] = office.attempts()
    assert (attempt.state, attempt.request_id) == (JobState.SUBMITTED, request_id)
    assert attempt.submitted_at == attempt.claimed_at


def test_a_request_made_at_another_time_needs_force(office: Office, files: str):
    job = asked("long ago")
    office.doubted(job, at=ago(hours=3))
    request_id = office.generated("long ago", f"{files}/cat.jpg")

    refused = office.comfyline("resolve", job.key, "--request-id", request_id)

    assert refused.code == 64
    assert "was created at" in refused.stderr
    assert "--force" in refused.stderr
    assert office.attempts()[0].state is JobState.IN_DOUBT
    assert list((office.folder / "home").glob("work/*")) == []

    forced = office.comfyline("resolve", job.key, "--request-id", request_id, "--force")

    assert forced.code == 0, forced.stderr
    assert office.attempts()[0].request_id == request_id


def test_another_attempts_request_is_never_adopted(office: Office):
    job, other = asked("mine"), asked("its own")
    office.submitted(other, "its-own-request")
    office.doubted(job)

    ended = office.comfyline("resolve", job.key, "--request-id", "its-own-request", "--force")

    assert ended.code == 64
    assert other.key[:12] in ended.stderr
    assert office.attempts()[1].state is JobState.IN_DOUBT


def test_a_request_that_runcomfy_does_not_know_is_refused(office: Office):
    job = asked("never heard of")
    office.doubted(job)

    ended = office.comfyline("resolve", job.key, "--request-id", "no-such-request", "--force")

    assert ended.code == 64
    assert "does not know request no-such-request" in ended.stderr
    assert office.attempts()[0].state is JobState.IN_DOUBT


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lost"],
        ["{key}", "--lost", "--request-id", "x"],
        ["{key}", "{other}", "--request-id", "x"],
        ["{key}", "--force"],
        ["{other}", "--lost"],
        ["no-such-job", "--lost"],
    ],
)
def test_an_answer_that_cannot_be_one_changes_nothing(office: Office, arguments: list[str]):
    job, other = asked("in doubt"), asked("at RunComfy")
    office.doubted(job)
    office.submitted(other)
    before = office.attempts()

    named = [part.format(key=job.key, other=other.key) for part in arguments]

    assert office.comfyline("resolve", *named).code == 64
    assert office.attempts() == before


def test_all_mistakes_of_several_jobs_are_said_at_once(office: Office):
    office.submitted(asked("at RunComfy"))
    ended = office.comfyline("resolve", "no-such-job", "nor-this", "--lost")

    assert ended.code == 64
    assert "no-such-job" in ended.stderr
    assert "nor-this" in ended.stderr


def test_what_cannot_be_finished_is_given_up_and_counts_as_charged(office: Office):
    job = asked("endless")
    office.submitted(job, request_id="request-1")

    said = office.comfyline("resolve", job.key[:12], "--give-up", "--json")

    assert said.code == 0
    assert said.json["resolved"][0]["answer"] == "given-up"
    assert "it counts as charged, about $0.14" in said.stderr
    assert "--refresh" in said.stderr
    [attempt] = office.attempts()
    assert (attempt.state, attempt.error_kind) == (JobState.FAILED, "given-up")


@pytest.mark.parametrize(("cost", "said"), [(0.0, "$0.00"), (0.2, "$0.20"), (None, "about $0.14")])
def test_what_is_given_up_says_its_cost_and_only_an_estimate_is_about(
    office: Office, cost: float | None, said: str
):
    job = asked("complete")
    attempt = office.submitted(job)
    office.ledger(lambda ledger: ledger.completed(attempt, cost))

    ended = office.comfyline("resolve", job.key, "--give-up")

    assert f"it counts as charged, {said}, and" in ended.stderr


@pytest.mark.parametrize("state", ["in doubt", "stored"])
def test_only_what_was_accepted_and_is_not_stored_can_be_given_up(office: Office, state: str):
    job = asked("a job")
    if state == "stored":
        office.stored(job, "request-1")
    else:
        office.doubted(job)
    before = office.attempts()

    said = office.comfyline("resolve", job.key[:12], "--give-up")

    assert said.code == 64
    assert "Nothing was changed" in said.stderr
    assert office.attempts() == before


def test_what_somebody_works_on_is_not_given_up(office: Office):
    job = asked("at work")
    office.submitted(job)
    office.ledger(lambda ledger: ledger.acquire(job.key))

    said = office.comfyline("resolve", job.key[:12], "--give-up")

    assert said.code == 64
    assert "Another process is working on job" in said.stderr
