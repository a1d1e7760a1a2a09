import pytest

from comfyline.job import JobState
from tests.cli.conftest import Office, ago, asked


def test_without_an_answer_the_question_is_shown_and_an_answer_is_owed(office: Office):
    job = asked("a doubt with facts")
    office.doubted(job)

    shown = office.comfyline("resolve", job.key[:12])
    [doubt] = office.comfyline("resolve", job.key, "--json").json["doubts"]

    assert shown.code == 64
    assert "the body was sent; the answer never came" in shown.stderr
    assert "ReadError" in shown.stderr
    assert f"comfyline resolve {job.key[:12]} --lost" in shown.stderr
    assert (doubt["job"], doubt["how_far"], len(doubt["answers"])) == (job.key, "body_sent", 2)
    assert {fact["text"] for fact in doubt["facts"]} >= {"ReadError", "estimated $0.14"}
    assert office.attempts()[0].state is JobState.IN_DOUBT


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


@pytest.mark.parametrize("hours", [0, 3])
def test_a_fitting_request_is_adopted_and_one_of_another_time_needs_force(
    office: Office, files: str, hours: int
):
    job = asked("found again")
    office.doubted(job, at=ago(hours=hours))
    request_id = office.generated("found again", f"{files}/cat.jpg")
    answer = ("resolve", job.key, "--request-id", request_id)
    if hours:
        refused = office.comfyline(*answer)
        assert refused.code == 64
        assert "was created at" in refused.stderr
        assert "--force" in refused.stderr
        assert office.attempts()[0].state is JobState.IN_DOUBT
        assert list((office.folder / "home").glob("work/*")) == []
        answer = (*answer, "--force")

    ended = office.comfyline(*answer)

    assert ended.code == 0, ended.stderr
    [attempt] = office.attempts()
    assert (attempt.state, attempt.request_id) == (JobState.SUBMITTED, request_id)
    assert attempt.submitted_at == attempt.claimed_at


def test_another_attempts_request_and_one_that_runcomfy_does_not_know_are_never_adopted(
    office: Office,
):
    job, other = asked("mine"), asked("its own")
    office.submitted(other, "its-own-request")
    office.doubted(job)

    for request_id, said in {
        "its-own-request": other.key[:12],
        "no-such-request": "does not know request no-such-request",
    }.items():
        ended = office.comfyline("resolve", job.key, "--request-id", request_id, "--force")
        assert (ended.code, said in ended.stderr) == (64, True)
    assert office.attempts()[1].state is JobState.IN_DOUBT


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lost"],
        ["{key}", "--lost", "--request-id", "x"],
        ["{key}", "{other}", "--request-id", "x"],
        ["{key}", "--force"],
        ["{key}", "--give-up"],
        ["{stored}", "--give-up"],
        ["{worked_on}", "--give-up"],
        ["{other}", "--lost"],
        ["no-such-job", "nor-this", "--lost"],
    ],
    ids=" ".join,
)
def test_an_answer_that_cannot_be_one_changes_nothing(office: Office, arguments: list[str]):
    jobs = {name: asked(name) for name in ("key", "other", "stored", "worked_on")}
    office.doubted(jobs["key"])
    office.submitted(jobs["other"])
    office.stored(jobs["stored"], "request-1")
    office.submitted(jobs["worked_on"])
    office.ledger(lambda ledger: ledger.acquire(jobs["worked_on"].key))
    before = office.attempts()
    keys = {name: job.key for name, job in jobs.items()}

    said = office.comfyline("resolve", *(part.format(**keys) for part in arguments))

    assert said.code == 64
    assert office.attempts() == before
    for part in arguments:
        assert part in said.stderr or not part.startswith("no")


@pytest.mark.parametrize(("cost", "said"), [(None, "about $0.14"), (0.0, "$0.00"), (0.2, "$0.20")])
def test_what_cannot_be_finished_is_given_up_and_counts_as_charged(
    office: Office, cost: float | None, said: str
):
    job = asked("endless")
    attempt_id = office.submitted(job)
    if cost is not None:
        office.ledger(lambda ledger: ledger.completed(attempt_id, cost))

    ended = office.comfyline("resolve", job.key[:12], "--give-up", "--json")

    assert ended.code == 0
    assert ended.json["resolved"][0]["answer"] == "given-up"
    assert f"it counts as charged, {said}, and" in ended.stderr
    assert "--refresh" in ended.stderr
    [attempt] = office.attempts()
    assert (attempt.state, attempt.error_kind) == (JobState.FAILED, "given-up")
