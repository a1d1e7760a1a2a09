"""The one table that decides whether a POST may be repeated."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import NoBalance, Refused, TokenRejected
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

NEVER_SENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.InvalidURL,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
}
MAYBE_SENT = {
    httpx.CloseError,
    httpx.CookieConflict,
    httpx.DecodingError,
    httpx.HTTPError,
    httpx.HTTPStatusError,
    httpx.LocalProtocolError,
    httpx.NetworkError,
    httpx.ProtocolError,
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.RemoteProtocolError,
    httpx.RequestError,
    httpx.RequestNotRead,
    httpx.ResponseNotRead,
    httpx.StreamClosed,
    httpx.StreamConsumed,
    httpx.StreamError,
    httpx.TimeoutException,
    httpx.TooManyRedirects,
    httpx.TransportError,
    httpx.WriteError,
    httpx.WriteTimeout,
}
BODIES: dict[str, bytes] = {
    "request id": b'{"request_id": "r-1"}',
    "request id and a status": b'{"request_id": "r-1", "status": "in_queue"}',
    "broken request id": b'{"request_id": "../r"}',
    "error": b'{"error_code": 400001, "error_message": "no"}',
    "error without a code": b'{"detail": [{"loc": ["body", "prompt"], "msg": "missing"}]}',
    "error with a word for a code": b'{"error_code": "E", "request_id": "r-1"}',
    "error and a request id": b'{"error_code": 400001, "request_id": "r-1"}',
    "error code nought and a request id": b'{"error_code": 0, "request_id": "r-1"}',
    "no error code": b'{"error_code": null, "request_id": "r-1"}',
    "html": b"<!doctype html><h1>One moment</h1>",
    "truncated": b'{"request_id": "r-',
    "empty": b"",
    "list": b'[{"request_id": "r-1"}]',
    "text": b'"r-1"',
}
ACCEPTED = {"request id", "request id and a status", "no error code"}


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def exported() -> set[type[Exception]]:
    names = (getattr(httpx, name) for name in httpx.__all__)
    return {kind for kind in names if isinstance(kind, type) and issubclass(kind, Exception)}


def made(kind: type[Exception]) -> Exception:
    # Each has a signature of its own, and only the class counts.
    error = kind.__new__(kind)
    error.args = ("why",)
    return error


def test_every_exception_of_httpx_is_classified_on_purpose():
    assert exported() == NEVER_SENT | MAYBE_SENT


@pytest.mark.parametrize("kind", sorted(NEVER_SENT, key=str))
def test_only_what_never_left_is_not_sent(kind: type[Exception]):
    assert isinstance(judge_exception(made(kind)), NotSent)


@pytest.mark.parametrize(
    "kind",
    [*sorted(MAYBE_SENT, key=str), TimeoutError, asyncio.TimeoutError, OSError, RuntimeError],
)
def test_every_other_exception_leaves_it_unknown(kind: type[Exception]):
    assert isinstance(judge_exception(made(kind)), Unknown)


def test_a_verdict_says_in_words_what_broke():
    verdict = judge_exception(httpx.ConnectError("refused"))
    assert verdict == NotSent("no connection could be made", SendProgress.NOT_CONNECTED)
    assert judge_exception(httpx.ReadTimeout("")) == Unknown("no answer came in time")


@given(st.sampled_from(SendProgress), st.sampled_from(sorted(MAYBE_SENT | NEVER_SENT, key=str)))
def test_only_a_post_whose_body_was_sent_is_unknown(how_far: SendProgress, kind: type[Exception]):
    verdict = judge_exception(made(kind), how_far)
    assert isinstance(verdict, Unknown) == (how_far >= SendProgress.BODY_SENT)
    assert isinstance(verdict, Unknown | NotSent)
    assert verdict.how_far is how_far


@given(st.sampled_from(SendProgress), st.integers(300, 599), st.sampled_from(sorted(BODIES)))
def test_an_answer_that_came_before_the_body_was_sent_leaves_no_doubt(
    how_far: SendProgress, status: int, name: str
):
    verdict = judge_answer(status, parsed(BODIES[name]), None, how_far)
    assert how_far >= SendProgress.BODY_SENT or not verdict.may_be_charged


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
    verdict = judge_answer(status, {"error_code": code, "message": "so it is"}, 5)
    assert isinstance(verdict, kind)
    if isinstance(verdict, SlowDown):
        assert (verdict.retry_after, verdict.http_status) == (5, status)


def test_what_may_be_charged_is_never_repeated():
    kinds = (Accepted, NotSent, SlowDown, No, Unknown)
    assert {kind for kind in kinds if kind.may_be_charged} == {Accepted, Unknown}
    assert {kind for kind in kinds if kind.may_be_repeated} == {NotSent, SlowDown}


@given(st.integers(100, 599), st.sampled_from(sorted(BODIES)))
def test_every_answer_has_a_verdict(status: int, name: str):
    verdict = judge_answer(status, parsed(BODIES[name]), None)
    assert isinstance(verdict, Accepted | No | SlowDown | Unknown)
    accepted = 200 <= status <= 299 and name in ACCEPTED
    assert isinstance(verdict, Accepted) == accepted
    if status == 429:
        assert verdict == SlowDown(None)
    elif status == 503 and name == "error":
        assert isinstance(verdict, No)
    elif status < 200 or status >= 500 or 300 <= status <= 399:
        assert isinstance(verdict, Unknown)
    elif status >= 400:
        assert isinstance(verdict, Unknown) == (status in {408, 499})


@pytest.mark.parametrize("name", sorted(set(BODIES) - ACCEPTED - {"error"}))
def test_a_success_without_a_clear_yes_or_no_is_unknown(name: str):
    assert isinstance(judge_answer(200, parsed(BODIES[name]), None), Unknown)


def test_an_answer_that_accepts_and_refuses_names_the_request_for_a_person():
    verdict = judge_answer(200, {"error_code": 1, "request_id": "r-1"}, None)
    assert isinstance(verdict, Unknown)
    assert "r-1" in verdict.reason


@given(st.integers(100, 599), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_json_breaks_the_table(status: int, answer: object):
    judge_answer(status, answer, None)


@pytest.mark.parametrize(
    ("status", "code", "kind", "word"),
    [
        (200, 400001, Refused, "refused"),
        (200, 400002, NoBalance, "balance"),
        (200, 400004, TokenRejected, "token"),
        (401, None, TokenRejected, "token"),
        (403, None, TokenRejected, "token"),
        (403, 400002, NoBalance, "balance"),
        (403, 403001, Refused, "refused"),
        (402, None, NoBalance, "balance"),
        (404, 404001, Refused, "refused"),
        (422, None, Refused, "refused"),
    ],
)
def test_a_refusal_says_whose_fault_it_is(
    status: int, code: int | None, kind: type[Exception], word: str
):
    verdict = judge_answer(status, {"error_code": code, "message": "so it is"}, None)
    assert isinstance(verdict, No)
    assert type(verdict.error) is kind
    assert word in verdict.error.message
    assert "so it is" in verdict.error.message
