"""JSON from RunComfy → values, whatever came."""

import math
from datetime import UTC, datetime

import pytest

from comfyline.job import JobState
from comfyline.runcomfy.wire import (
    BrokenAnswer,
    RequestResult,
    RequestStatus,
    names_status,
    read_cancel,
    read_error,
    read_request_id,
)


def test_an_unknown_word_is_a_value_and_no_end():
    for word in ("paused", "done", "", "error", "completed!", "completed\0"):
        assert RequestStatus.read({"status": word}).state is None
        assert not names_status({"status": word})
    assert RequestStatus.read({"status": " Completed\n"}).state is JobState.COMPLETED


@pytest.mark.parametrize("answer", [None, {}, {"status": None}, {"status": 3}, {"status": ["a"]}])
def test_an_answer_without_a_status_is_broken(answer: object):
    with pytest.raises(BrokenAnswer):
        RequestStatus.read(answer)


def test_a_cost_and_a_place_that_are_none_are_unknown():
    for cost in (None, math.nan, math.inf, -0.01, True, False, "0.14", [], {}, 10**400):
        assert RequestResult.read({"status": "completed", "cost": cost}).cost_usd is None
    for place in (True, -1, "3", 2.0, None, 10**400):
        assert (
            RequestStatus.read({"status": "in_queue", "queue_position": place}).queue_position
            is None
        )


def test_a_result_says_of_which_model_and_of_when_it_is():
    answer = {"status": "completed", "created_at": "2026-01-02T03:04:05", "model": "a/b"}
    read = RequestResult.read(answer)
    assert (read.model_id, read.created_at) == ("a/b", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert RequestResult.read({**answer, "model_id": "c/d"}).model_id == "c/d"
    assert RequestResult.read({**answer, "model_id": None}).model_id == "a/b"
    unknown = RequestResult.read({**answer, "created_at": "soon", "model": 7})
    assert (unknown.model_id, unknown.created_at) == (None, None)


def test_any_other_request_id_is_broken():
    for name in ("", "x" * 129, "a b", "a/b", "a\n", "ä", None, 7, ["a"]):
        with pytest.raises(BrokenAnswer):
            read_request_id({"request_id": name})


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ({"error_code": 400001, "error_message": "bad model"}, 400001, "bad model"),
        ({"error_code": "400001", "message": "bad model"}, 400001, "bad model"),
        ({"error": {"message": "no"}}, None, "no"),
        ({"detail": "no"}, None, "no"),
        ({"message": "no", "detail": "because"}, None, "no: because"),
        (
            {"detail": [{"loc": ["body", "prompt"], "msg": "is missing"}, {"msg": "b"}]},
            None,
            "body.prompt: is missing; b",
        ),
        ({"error_message": "", "message": "no"}, None, "no"),
        ({"error_code": 1}, 1, "error 1"),
        ({"error_code": "E_BAD"}, None, "error without a number"),
        ({"error_code": "²"}, None, "error without a number"),
        ({"error_code": True}, None, "error without a number"),
        ({"status": "error", "message": "too long"}, None, "too long"),
    ],
)
def test_an_error_is_read_from_each_of_its_spellings(
    answer: dict[str, object], code: int | None, message: str
):
    error = read_error(answer)
    assert error is not None
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize("answer", [None, [], "no", 3, {}, {"request_id": "a"}, {"error": None}])
def test_an_answer_without_an_error_has_none(answer: object):
    assert read_error(answer) is None


def test_an_error_quotes_no_signature_and_no_whole_file():
    signed = "https://b.s3.test/cat.jpg?X-Amz-Signature=5ecret&b=1"
    error = read_error({"detail": f"cannot fetch {signed} in time"})
    assert error is not None
    assert error.message == "cannot fetch https://b.s3.test/cat.jpg in time"
    failed = RequestStatus.read(
        {"status": "failed", "error": f"data:image/png;base64,{'A' * 10**6}"}
    )
    assert len(failed.error) < 2000
    assert "5ecret" not in RequestStatus.read({"status": "failed", "error": {"url": signed}}).error


def test_an_error_of_an_unknown_shape_shows_no_half_of_a_query():
    signed = f"https://a.test/cat.jpg?X-Amz-Credential={'a' * 3000}&X-Amz-Signature=5ecret"
    for shape in ({"what": signed}, {"what": [[[signed]]]}, {signed: 1}, [[signed], {"a": signed}]):
        error = read_error({"detail": shape})
        assert error is not None
        assert "5ecret" not in error.message
        assert "aaa" not in error.message


def test_a_text_of_runcomfys_cannot_steer_a_terminal_or_break_a_database():
    said = "a\x1b[2J\0b\u202ec\ud800d\ne"
    status = RequestStatus.read({"status": "x\x1b[2J", "error": None, "error_message": said})
    assert status.error == "a [2J b c d e"
    assert status.word == "x [2J"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"outcome": "cancelled", "status": "cancelled"}, "cancelled"),
        ({"outcome": "not_cancellable", "status": "in_progress"}, "not_cancellable"),
        ({"outcome": "not_cancellable", "status": "cancelled"}, "cancelled"),
        ({"outcome": 7, "status": ["cancelled"]}, "unknown"),
        ({"outcome": "", "status": "in_progress"}, "in_progress"),
        ({}, "unknown"),
    ],
)
def test_a_cancelled_request_is_told_from_one_that_goes_on(answer: object, outcome: str):
    assert read_cancel(answer) == outcome


def test_unknown_fields_and_junk_in_fields_that_only_inform_change_nothing():
    junk = {"queue_position": "soon", "created_at": [], "status_url": 7, "new_field": {"a": 1}}
    assert RequestStatus.read({"status": "in_queue", **junk}) == RequestStatus.read(
        {"status": "in_queue"}
    )
