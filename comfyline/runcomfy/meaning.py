"""What an HTTP answer means: the one place that reads status codes and error codes.

    meaning    read from                                            the POST     any other call
    YES        2xx without an error                                 Accepted     the answer
    LATER      429, 425; 503 in which RunComfy itself says so       SlowDown     TryLater
    TOKEN      400004; 401, 403                                     No           TokenRejected
    BALANCE    400002; 402                                          No           NoBalance
    NOT_FOUND  404001; 404, 410 in RunComfy's words                 No           NotKnownNow
    NOT_HERE   404, 410 in somebody else's words                    No           Unreachable
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

from enum import Enum

import httpx

from comfyline.runcomfy.wire import ApiError

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
    """The meaning of an answer. `error` is what `wire.read_error` finds in it."""
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
    """What a code says where the HTTP status says nothing."""
    family = _family(code)
    if httpx.codes.is_server_error(family):
        return Meaning.AWAY
    return _BY_CODE.get(code, Meaning.LATER if family in _LATER else Meaning.REFUSED)


def _refuses(code: int) -> bool:
    return httpx.codes.is_client_error(_family(code)) and _family(code) not in _MAYBE_TAKEN


def _family(code: int) -> int:
    """The HTTP status in a code: 400001 is of 400, and 429 of itself."""
    return code if code < _SHORTEST_CODE else code // 1000
