"""What a submission's end proves: the one table that decides whether a POST may be repeated.

    NotSent    the request never left, or was cut off before its body was complete: safe to repeat
    SlowDown   refused for now: safe to repeat, after a while
    No         refused for good: not accepted, not charged
    Accepted   here is the request id
    Unknown    it may have been accepted and charged, and whatever the table does not name

RunComfy has no idempotency key and no list of one's own requests, so `Unknown` is final for the
machine: only a person can resolve it. What an answer means to any call is one table:

    meaning    read from                                            the POST     any other call
    YES        2xx without an error                                 Accepted     the answer
    LATER      429, 425; 503 in which RunComfy itself says so       SlowDown     TryLater
    TOKEN      400004; 401, 403                                     No           TokenRejected
    BALANCE    400002; 402                                          No           NoBalance
    NOT_FOUND  404001; 404, 410 in RunComfy's words                 No           NotKnownNow
    NOT_HERE   404, 410 in somebody else's words; about an accepted No           Unreachable
               request, any other 4xx in such words
    REFUSED    any other 4xx; 2xx with an error code                No           Refused
    REDIRECT   3xx                                                  Unknown      Redirected
    AWAY       5xx, 408, 499, all else; 2xx with a code of the 500s Unknown      Unreachable

An error code says more than the HTTP status it came with, so it is asked first. Of six
digits the first three are an HTTP status, as in all the documented ones (400001 to 404001); that
makes those readable that nobody has documented yet.

A 503 proves nothing by itself, with `Retry-After` or without: a proxy says so when the server
behind it took the request and its answer was lost. Only an error code of RunComfy's own that is a
refusal (of the 400s, 429 among them) makes it one.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import httpx

from comfyline.config.account import command
from comfyline.errors import (
    BrokenAnswer,
    ComfylineError,
    NoBalance,
    NotKnownNow,
    Redirected,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.runcomfy.transport import Response, SendProgress
from comfyline.runcomfy.wire import (
    ApiError,
    check_answer,
    names_status,
    read_error,
    read_request_id,
)
from comfyline.storage.connection_errors import what_broke

_GONE = {404, 410}
_LATER = {425, 429}
"""Refused before anything was done; 425 asks for the same over a finished TLS handshake."""

_MAYBE_TAKEN = {408, 499}
"""4xx answers that a proxy may give after the server behind it has taken the request."""

_SHORTEST_CODE = 1000


class Meaning(Enum):
    """What RunComfy, or whoever answers in its place, says to a call."""

    YES = "yes"
    LATER = "later"
    TOKEN = "token"  # noqa: S105  # a word
    BALANCE = "balance"
    NOT_FOUND = "not found"
    NOT_HERE = "not here"
    REFUSED = "refused"
    REDIRECT = "redirect"
    AWAY = "away"


_BY_CODE = {
    400002: Meaning.BALANCE,
    400004: Meaning.TOKEN,
    403001: Meaning.REFUSED,
    404001: Meaning.NOT_FOUND,
}
_BY_STATUS = {
    401: Meaning.TOKEN,
    402: Meaning.BALANCE,
    403: Meaning.TOKEN,
    **dict.fromkeys(_LATER, Meaning.LATER),
}


def read_meaning(http_status: int, error: ApiError | None) -> Meaning:
    """Read the meaning of an answer. `error` is what `wire.read_error` finds in it."""
    code = error.code if error else None
    if httpx.codes.is_success(http_status):
        if code is None:
            # A code that nobody can read is no good news, and proves no refusal either.
            return Meaning.AWAY if error and error.has_code else Meaning.YES
        return _by_code(code)
    if httpx.codes.is_redirect(http_status):
        return Meaning.REDIRECT
    if httpx.codes.is_client_error(http_status) and http_status not in _MAYBE_TAKEN:
        return _refusal(http_status, error)
    if http_status == httpx.codes.SERVICE_UNAVAILABLE and code is not None and _refuses(code):
        return _by_code(code)
    return Meaning.AWAY


def _refusal(http_status: int, error: ApiError | None) -> Meaning:
    if error and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    if http_status in _GONE:
        return Meaning.NOT_FOUND if error else Meaning.NOT_HERE
    return _BY_STATUS.get(http_status, Meaning.REFUSED)


def _by_code(code: int) -> Meaning:
    """Read a code where the HTTP status says nothing."""
    family = _family(code)
    if httpx.codes.is_server_error(family):
        return Meaning.AWAY
    return _BY_CODE.get(code, Meaning.LATER if family in _LATER else Meaning.REFUSED)


def _refuses(code: int) -> bool:
    return httpx.codes.is_client_error(_family(code)) and _family(code) not in _MAYBE_TAKEN


def _family(code: int) -> int:
    """Return the HTTP status in a code: 400001 is of 400, and 429 of itself."""
    return code if code < _SHORTEST_CODE else code // 1000


@dataclass(frozen=True, slots=True)
class Accepted:
    """RunComfy took the request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request never reached RunComfy whole; sending it again cannot pay twice."""

    retry_after: ClassVar[None] = None

    reason: str
    how_far: SendProgress = SendProgress.NOT_CONNECTED

    @property
    def error(self) -> Unreachable:
        """What to say when it is not repeated any more."""
        return away(self.reason, None)


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Refused for now. `retry_after` is in seconds, None when RunComfy does not say."""

    retry_after: float | None
    http_status: int = 429

    @property
    def error(self) -> TryLater:
        """What to say when it is not repeated any more."""
        return slow_down(self.http_status, None, self.retry_after)


@dataclass(frozen=True, slots=True)
class No:
    """Refused for good; `error` is what the user should see."""

    error: ComfylineError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The POST may have been accepted."""

    reason: str
    how_far: SendProgress = SendProgress.ANSWER_BEGUN


Verdict = Accepted | NotSent | SlowDown | No | Unknown


def judge_exception(error: Exception, how_far: SendProgress) -> NotSent | Unknown:
    """Judge what an exception from the POST proves: its kind nothing, how far it got everything."""
    return _unproven(what_broke(error), how_far)


def judge_answer(
    http_status: int,
    answer: Any,
    retry_after: float | None,
    how_far: SendProgress,
) -> Verdict:
    """Judge what an HTTP answer to the POST proves. `answer` is JSON, None if it is none."""
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


def _unproven(reason: str, how_far: SendProgress) -> NotSent | Unknown:
    """Tell the two apart: without its last byte no request can be accepted."""
    if how_far < SendProgress.BODY_SENT:
        return NotSent(reason, how_far)
    return Unknown(reason, how_far)


def require_answer(response: Response, request_id: str | None) -> Response:
    """Return an answer when it is one to the question. Raise what it stands for otherwise.

    `request_id` is that of the accepted request which the call is about, None for all other calls.
    """
    if request_id:
        check_answer(response.content, request_id)
    said = read_error(response.content)
    meaning = read_meaning(response.status, said)
    if httpx.codes.is_success(response.status) and names_status(response.content):
        # A request that failed has an error code as well, and the call about it was answered.
        meaning = Meaning.YES
    if meaning is Meaning.REFUSED and request_id and not isinstance(response.content, dict):
        # The request was accepted, so this is not RunComfy: another program has its port.
        meaning = Meaning.NOT_HERE
    match meaning:
        case Meaning.YES if isinstance(response.content, dict):
            return response
        case Meaning.YES:
            raise BrokenAnswer(
                "RunComfy's address does not answer with JSON", hint=_safe(), request_id=request_id
            )
        case Meaning.LATER:
            raise slow_down(response.status, request_id, response.retry_after)
        case Meaning.REDIRECT:
            raise _redirected(response.status, response.moved_to, request_id)
        case Meaning.AWAY:
            raise away(f"HTTP {response.status}", request_id, response.retry_after)
        case Meaning.NOT_HERE:
            raise away(f"HTTP {response.status}, but not in RunComfy's format", request_id)
        case _:
            raise refusal(meaning, response.status, said, request_id)


def refusal(
    meaning: Meaning, http_status: int, said: ApiError | None, request_id: str | None = None
) -> ComfylineError:
    """Make the error for a call that RunComfy refuses for good."""
    text = said.message if said else f"HTTP {http_status}"
    match meaning:
        case Meaning.TOKEN:
            return TokenRejected(
                f"RunComfy rejected the token: {text}",
                hint="Check the token in your RunComfy profile and the variable that holds it.",
                request_id=request_id,
            )
        case Meaning.BALANCE:
            return NoBalance(
                f"RunComfy reports no balance left: {text}",
                hint="Top up, then run again.",
                request_id=request_id,
            )
        case Meaning.NOT_FOUND if request_id:
            return NotKnownNow(
                f"RunComfy does not know request {request_id} ({text})",
                hint=f"It was accepted and is not lost: {command('reconcile')} asks again. If this "
                "persists, check that this is the profile with which it was submitted.",
                request_id=request_id,
            )
        case _:
            hint = "Nothing was charged."
            if request_id:
                # Refused is the question about it: the request was accepted long ago.
                hint = f"The request may still be running: see {command('jobs')}."
            said_no = f"RunComfy refused the request: {text}"
            return Refused(said_no, hint=hint, request_id=request_id)


def slow_down(http_status: int, request_id: str | None, retry_after: float | None) -> TryLater:
    """Make the error for a refusal that passes."""
    return TryLater(
        f"RunComfy asks us to slow down (HTTP {http_status})",
        hint="Run again later. Nothing is lost.",
        request_id=request_id,
        retry_after=retry_after,
    )


def away(reason: str, request_id: str | None, retry_after: float | None = None) -> Unreachable:
    """Make the error for no answer, or none of RunComfy's."""
    return Unreachable(
        f"RunComfy cannot be reached: {reason}",
        hint=_safe(),
        request_id=request_id,
        retry_after=retry_after,
    )


def _redirected(http_status: int, moved_to: str, request_id: str | None) -> Redirected:
    to = f" to {moved_to}" if moved_to else ""
    return Redirected(
        f"RunComfy's API redirects{to} (HTTP {http_status}), where the token is not sent",
        hint="Check `runcomfy.base_url` in the profile and RUNCOMFY_BASE_URL: it must be the "
        "final address.",
        request_id=request_id,
    )


def _safe() -> str:
    return f"What was submitted is safe. Run again, or {command('reconcile')} when it is back."
