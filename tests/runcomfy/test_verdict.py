"""The one table that decides whether a POST may be repeated."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.runcomfy.verdict import (
    Accepted,
    No,
    NotSent,
    SendProgress,
    SlowDown,
    Unknown,
    judge_answer,
    judge_exception,
)

SENT = SendProgress.ANSWER_BEGUN
BODIES: dict[str, Any] = {
    "request id": {"request_id": "r-1"},
    "request id and a status": {"request_id": "r-1", "status": "in_queue"},
    "no error code": {"error_code": None, "request_id": "r-1"},
    "broken request id": {"request_id": "../r"},
    "error": {"error_code": 400001, "error_message": "no"},
    "error without a code": {"detail": [{"loc": ["body", "prompt"], "msg": "missing"}]},
    "error with a word for a code": {"error_code": "E", "request_id": "r-1"},
    "error and a request id": {"error_code": 400001, "request_id": "r-1"},
    "error code nought and a request id": {"error_code": 0, "request_id": "r-1"},
    "no JSON": None,
    "list": [{"request_id": "r-1"}],
    "text": "r-1",
}
ACCEPTED = {"request id", "request id and a status", "no error code"}


@given(
    st.sampled_from(SendProgress),
    st.sampled_from([httpx.ConnectError, httpx.ReadTimeout, httpx.ProtocolError, OSError]),
)
def test_only_a_post_whose_body_was_sent_is_unknown(how_far: SendProgress, kind: type[Exception]):
    verdict = judge_exception(kind("why"), how_far)
    assert isinstance(verdict, Unknown) == (how_far >= SendProgress.BODY_SENT)
    assert verdict.how_far is how_far


@given(st.sampled_from(SendProgress), st.integers(300, 599), st.sampled_from(sorted(BODIES)))
def test_an_answer_that_came_before_the_body_was_sent_leaves_no_doubt(
    how_far: SendProgress, status: int, name: str
):
    verdict = judge_answer(status, BODIES[name], None, how_far)
    assert how_far >= SendProgress.BODY_SENT or isinstance(verdict, NotSent | SlowDown | No)


@given(st.integers(100, 599), st.sampled_from(sorted(BODIES)))
def test_every_answer_has_a_verdict(status: int, name: str):
    verdict = judge_answer(status, BODIES[name], None, SENT)
    accepted = 200 <= status <= 299 and name in ACCEPTED
    assert isinstance(verdict, Accepted) == accepted
    if status == 429:
        assert verdict == SlowDown(None)
    elif 200 <= status <= 299 and name not in {*ACCEPTED, "error"}:
        assert isinstance(verdict, Unknown)
    elif status == 503 and name == "error":
        assert isinstance(verdict, No)
    elif status < 200 or status >= 500 or 300 <= status <= 399:
        assert isinstance(verdict, Unknown)
    elif status >= 400:
        assert isinstance(verdict, Unknown) == (status in {408, 499})


def test_an_answer_that_accepts_and_refuses_names_the_request_for_a_person():
    verdict = judge_answer(200, {"error_code": 1, "request_id": "r-1"}, None, SENT)
    assert isinstance(verdict, Unknown)
    assert "r-1" in verdict.reason


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, None, Unknown),
        (503, 503, Unknown),
        (503, 503001, Unknown),
        (503, 4290, Unknown),
        (503, 408001, Unknown),
        (503, 429001, SlowDown),
        (503, 429, SlowDown),
        (503, 400001, No),
        (500, 429001, Unknown),
        (502, 400002, Unknown),
        (504, 400001, Unknown),
        (200, 500001, Unknown),
        (200, 503, Unknown),
        (200, 429001, SlowDown),
        (200, 7, No),
    ],
)
def test_only_runcomfys_own_word_makes_a_503_a_refusal(
    status: int, code: int | None, kind: type[object]
):
    verdict = judge_answer(status, {"error_code": code, "message": "so it is"}, 5, SENT)
    assert isinstance(verdict, kind)
    if isinstance(verdict, SlowDown):
        assert (verdict.retry_after, verdict.http_status) == (5, status)
