"""What an error decides: whether to ask again, when, and whether money may have been spent."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from comfyline import errors
from comfyline.errors import (
    BrokenAnswer,
    ComfylineError,
    InDoubt,
    NoBalance,
    NotKnownNow,
    Redirected,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.runcomfy.transport import Response
from comfyline.runcomfy.verdict import require_answer


def reply(status: int, content: Any, retry_after: float | None = 7) -> Response:
    return Response(status, content, retry_after, "https://else.test")


@pytest.mark.parametrize(
    ("status", "content", "kind", "again", "wait"),
    [
        (429, None, TryLater, "again", 7),
        (425, None, TryLater, "again", 7),
        (503, {"error_code": 429001}, TryLater, "again", 7),
        (503, None, Unreachable, "again", 7),
        (500, {"error_code": 400004}, Unreachable, "again", 7),
        (408, None, Unreachable, "again", 7),
        (404, None, Unreachable, "again", None),
        (400, None, Unreachable, "again", None),
        (200, None, BrokenAnswer, "again", None),
        (204, ["a"], BrokenAnswer, "again", None),
        (302, None, Redirected, "never", None),
        (403, {"error_code": 400004}, TokenRejected, "never", None),
        (200, {"error_code": 400002}, NoBalance, "never", None),
        (403, {"error_code": 400002}, NoBalance, "never", None),
        (200, {"error_code": 400002.0}, NoBalance, "never", None),
        (200, {"error_code": "400002"}, NoBalance, "never", None),
        (200, {"error_code": "soon"}, Unreachable, "again", 7),
        (404, {"detail": "unknown"}, NotKnownNow, "never", None),
        (422, {"detail": "no"}, Refused, "never", None),
    ],
)
def test_each_trouble_says_whether_and_when_to_ask_again(
    status: int, content: Any, kind: type[ComfylineError], again: str, wait: float | None
):
    with pytest.raises(kind) as raised:
        require_answer(reply(status, content), "r-1")
    error = raised.value
    assert type(error) is kind
    assert (error.passing, error.retry_after) == (again == "again", wait)
    # Whatever the trouble with the question: what it is about was accepted.
    assert error.may_be_charged
    assert error.request_id == "r-1"


def test_a_failed_request_with_an_error_code_is_an_answer():
    answer = reply(200, {"status": "failed", "error_code": 500001})
    assert require_answer(answer, "r-1") is answer


def test_a_balance_that_is_used_up_is_a_refusal_with_a_name_of_its_own():
    with pytest.raises(NoBalance) as raised:
        require_answer(reply(402, {"message": "no money"}), None)
    assert isinstance(raised.value, Refused)
    assert raised.value.kind == "balance"
    assert not raised.value.may_be_charged


def every(kind: type[ComfylineError]) -> Iterator[type[ComfylineError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every(child)


def test_money_that_is_in_doubt_or_a_request_that_was_accepted_may_be_charged():
    for kind in every(ComfylineError):
        error = kind.__new__(kind)
        error.request_id = None
        assert error.may_be_charged == (kind is InDoubt)
        error.request_id = "r-1"
        assert error.may_be_charged


def test_what_may_be_charged_in_doubt_is_never_asked_for_again():
    assert not InDoubt("nobody knows").passing


def test_every_kind_of_error_has_a_name_of_its_own():
    kinds = [kind.kind for kind in every(ComfylineError)]
    assert len(set(kinds)) == len(kinds)


def test_what_an_error_decides_survives_the_way_to_another_process():
    error = TryLater("slow down", hint="later", request_id="r-1", retry_after=7)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # bytes of our own
    assert (copy.retry_after, copy.passing, copy.may_be_charged) == (7, True, True)
    assert str(copy) == str(error)
