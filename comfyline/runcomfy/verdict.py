"""What a submission's end proves: the one table that decides whether a POST may be repeated.

    NotSent    the request never left, or was cut off before its body was complete: safe to repeat
    Refused    RunComfy said no: not accepted, not charged
    Accepted   here is the request id
    Unknown    it may have been accepted and charged, and whatever the table does not name

RunComfy has no idempotency key and no list of one's own requests, so `Unknown` is final for the
machine: only a person can resolve it.
"""

from dataclasses import dataclass
from typing import Any

import httpx

from comfyline.errors import ComfylineError, Refused, TokenRejected
from comfyline.runcomfy.wire import ApiError, BrokenAnswer, read_error, read_request_id


@dataclass(frozen=True, slots=True)
class Accepted:
    """RunComfy took the request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request never reached RunComfy; sending it again cannot pay twice."""

    reason: str


@dataclass(frozen=True, slots=True)
class SlowDown:
    """A 429: refused for now. `retry_after` is in seconds, None when RunComfy does not say."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class No:
    """Refused for good; `error` is what the user should see."""

    error: ComfylineError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The POST may have been accepted."""

    reason: str


Verdict = Accepted | NotSent | SlowDown | No | Unknown

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.InvalidURL,
)
"""What httpx raises before a byte of the request has left this machine."""

_TOKEN_CODE = 400004
_NO_BALANCE_CODE = 400002
_NOT_YOURS_CODE = 403001
_MAYBE_ACCEPTED_STATUS = {408, 499}
"""4xx answers that a proxy may give after the server behind it has taken the request."""


def judge_exception(error: Exception) -> Verdict:
    """What an exception from the POST proves. Anything but a failed connection: unknown."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    return NotSent(reason) if isinstance(error, _NEVER_SENT) else Unknown(reason)


def judge_answer(http_status: int, answer: Any, retry_after: float | None) -> Verdict:
    """What an HTTP answer to the POST proves. `answer` is the parsed JSON, None if it is none."""
    if http_status == httpx.codes.TOO_MANY_REQUESTS:
        return SlowDown(retry_after)
    error = read_error(answer)
    if httpx.codes.is_success(http_status):
        return _judge_success(http_status, answer, error)
    if httpx.codes.is_client_error(http_status) and http_status not in _MAYBE_ACCEPTED_STATUS:
        return No(refusal(http_status, error))
    return Unknown(f"HTTP {http_status}")


def _judge_success(http_status: int, answer: Any, error: ApiError | None) -> Verdict:
    fields = answer if isinstance(answer, dict) else {}
    try:
        request_id = read_request_id(fields)
    except BrokenAnswer as broken:
        if error is not None and error.code is not None:
            return No(refusal(http_status, error))
        return Unknown(f"HTTP {http_status}, but {broken}")
    if fields.get("error_code") is None:
        return Accepted(request_id)
    # Accepted and refused in one answer: somebody has to look, and is told where.
    return Unknown(f"HTTP {http_status} names request {request_id} and an error_code")


def refusal(http_status: int, error: ApiError | None) -> ComfylineError:
    """The error to show for an answer by which RunComfy refuses a call."""
    code = error.code if error else None
    said = error.message if error else f"HTTP {http_status}"
    # The code says more than the HTTP status, so it is asked first.
    if code == _NO_BALANCE_CODE or http_status == httpx.codes.PAYMENT_REQUIRED:
        return Refused(f"RunComfy reports no balance left: {said}", hint="Top up, then run again.")
    if code == _TOKEN_CODE or (http_status in {401, 403} and code != _NOT_YOURS_CODE):
        return TokenRejected(
            f"RunComfy rejected the token: {said}",
            hint="Check the token in your RunComfy profile and the variable that holds it.",
        )
    return Refused(f"RunComfy refused the request: {said}", hint="Nothing was charged.")
