"""What a submission's end proves: the one table that decides whether a POST may be repeated.

    NotSent    the request never left, or was cut off before its body was complete: safe to repeat
    SlowDown   refused for now: safe to repeat, after a while
    No         refused for good: not accepted, not charged
    Accepted   here is the request id
    Unknown    it may have been accepted and charged, and whatever the table does not name

RunComfy has no idempotency key and no list of one's own requests, so `Unknown` is final for the
machine: only a person can resolve it. What an answer means is read in `meaning`; here is added
what only the paid POST needs: how far it got, and that an answer must be clear to prove anything.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import httpx

from comfyline.broken_connections import what_broke
from comfyline.errors import BrokenAnswer, ComfylineError, TryLater, Unreachable
from comfyline.runcomfy.meaning import Meaning, read_meaning
from comfyline.runcomfy.troubles import away, refusal, slow_down
from comfyline.runcomfy.wire import read_error, read_request_id


class HowFar(IntEnum):
    """How far a POST got. From `BODY_SENT` on RunComfy may hold all that it needs to accept it."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    HEADERS_SENT = 2
    BODY_SENT = 3
    ANSWER_BEGUN = 4


@dataclass(frozen=True, slots=True)
class Accepted:
    """RunComfy took the request."""

    may_be_charged: ClassVar[bool] = True
    may_be_repeated: ClassVar[bool] = False

    request_id: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request never reached RunComfy whole; sending it again cannot pay twice."""

    may_be_charged: ClassVar[bool] = False
    may_be_repeated: ClassVar[bool] = True
    retry_after: ClassVar[None] = None

    reason: str
    how_far: HowFar = HowFar.HEADERS_SENT

    @property
    def error(self) -> Unreachable:
        """What to say when it is not repeated any more."""
        return away(self.reason, None)


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Refused for now. `retry_after` is in seconds, None when RunComfy does not say."""

    may_be_charged: ClassVar[bool] = False
    may_be_repeated: ClassVar[bool] = True

    retry_after: float | None
    http_status: int = 429

    @property
    def error(self) -> TryLater:
        """What to say when it is not repeated any more."""
        return slow_down(self.http_status, None, self.retry_after)


@dataclass(frozen=True, slots=True)
class No:
    """Refused for good; `error` is what the user should see."""

    may_be_charged: ClassVar[bool] = False
    may_be_repeated: ClassVar[bool] = False

    error: ComfylineError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The POST may have been accepted."""

    may_be_charged: ClassVar[bool] = True
    may_be_repeated: ClassVar[bool] = False

    reason: str
    how_far: HowFar = HowFar.ANSWER_BEGUN


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


def judge_exception(error: Exception, how_far: HowFar | None = None) -> Verdict:
    """What an exception from the POST proves.

    Without its last byte no request can be accepted, so how far it got says more than the kind of
    the exception; that is asked only when `how_far` is not known.
    """
    reason = what_broke(error)
    if how_far is None:
        known = isinstance(error, _NEVER_SENT)
        return NotSent(reason, HowFar.NOT_CONNECTED) if known else Unknown(reason)
    return _unproven(reason, how_far)


def judge_answer(
    http_status: int,
    answer: Any,
    retry_after: float | None,
    how_far: HowFar = HowFar.ANSWER_BEGUN,
) -> Verdict:
    """What an HTTP answer to the POST proves. `answer` is the parsed JSON, None if it is none."""
    said = read_error(answer)
    meaning = read_meaning(http_status, said)
    if httpx.codes.is_success(http_status):
        try:
            request_id = read_request_id(answer)
        except BrokenAnswer:
            if meaning in {Meaning.YES, Meaning.AWAY}:
                return Unknown(f"HTTP {http_status} without a valid request_id", how_far)
        else:
            if answer.get("error_code") is None:
                return Accepted(request_id)
            # Accepted and refused in one answer: somebody has to look, and is told where.
            both = f"HTTP {http_status} names request {request_id} and an error_code"
            return Unknown(both, how_far)
    match meaning:
        case Meaning.LATER:
            return SlowDown(retry_after, http_status)
        case Meaning.REDIRECT | Meaning.AWAY | Meaning.YES:
            return _unproven(f"HTTP {http_status}", how_far)
        case _:
            return No(refusal(meaning, http_status, said))


def _unproven(reason: str, how_far: HowFar) -> NotSent | Unknown:
    if how_far < HowFar.BODY_SENT:
        return NotSent(reason, how_far)
    return Unknown(reason, how_far)
