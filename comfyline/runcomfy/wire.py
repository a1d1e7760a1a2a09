"""JSON from RunComfy → frozen values, one function an answer. Above this no dict travels."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfyline.job import JobState

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# An error may quote an input, whose signed query is a secret, or a whole data: URI.
_QUERY = re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*")
_LONGEST_TEXT = 1000
_LONGEST_QUEUE = 1_000_000

_STATES: Mapping[str, JobState] = {
    "in_queue": JobState.IN_QUEUE,
    "pending": JobState.IN_QUEUE,
    "waiting": JobState.IN_QUEUE,
    "in_progress": JobState.IN_PROGRESS,
    "starting": JobState.IN_PROGRESS,
    "processing": JobState.IN_PROGRESS,
    "completed": JobState.COMPLETED,
    "succeeded": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
    "canceled": JobState.CANCELLED,
}


class BrokenAnswer(ValueError):
    """An answer that is not what the API describes: no JSON object, or a malformed id."""


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """Where a request stands. `state` is None for a word that nobody documented: not an end."""

    word: str
    state: JobState | None
    queue_position: int | None
    error: str


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The end of a request: its status, its output as it came, and the charge when known."""

    status: RequestStatus
    output: Any
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error that RunComfy states, over whatever HTTP status it came."""

    code: int | None
    message: str


def read_request_id(answer: Mapping[str, Any]) -> str:
    """The request id of an accepted submission. Raises `BrokenAnswer` when it is malformed."""
    request_id = answer.get("request_id")
    if isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id):
        return request_id
    raise BrokenAnswer("the answer names no valid request_id")


def read_status(answer: Mapping[str, Any]) -> RequestStatus:
    """Reads a status or result answer. Raises `BrokenAnswer` when no status is in it."""
    word = answer.get("status")
    if not isinstance(word, str):
        raise BrokenAnswer("the answer names no status")
    return RequestStatus(
        word=word[:_LONGEST_TEXT],
        state=_STATES.get(word.strip().lower()),
        queue_position=_position(answer.get("queue_position")),
        error=_sentence(answer.get("error") or answer.get("error_message")),
    )


def names_status(answer: Any) -> bool:
    """Whether an answer says where a request stands, in a word that is known."""
    word = answer.get("status") if isinstance(answer, Mapping) else None
    return isinstance(word, str) and word.strip().lower() in _STATES


def read_result(answer: Mapping[str, Any]) -> RequestResult:
    """Reads a result answer. A cost that is no amount of money is unknown, never zero."""
    return RequestResult(
        status=read_status(answer),
        output=answer.get("output"),
        cost_usd=_money(answer.get("cost")),
    )


def read_error(answer: Any) -> ApiError | None:
    """The error an answer carries, from whichever of its spellings; None when it has none.

    A `failed` request also has an `error` field, so of an answer with HTTP 200 only an error with
    a code says that the call itself was refused.
    """
    if not isinstance(answer, Mapping):
        return None
    code = answer.get("error_code")
    named = next(
        (answer[k] for k in ("error_message", "message", "error", "detail") if answer.get(k)), None
    )
    if code is None and named is None:
        return None
    number = _number(code)
    detail, message = _sentence(answer.get("detail")), _sentence(named)
    text = message if detail in message else f"{message}: {detail}"
    return ApiError(code=number, message=text or f"error {number or 'without a number'}")


def _number(code: Any) -> int | None:
    if isinstance(code, bool) or not re.fullmatch(r"\d{1,18}", str(code), re.ASCII):
        return None
    return int(code)


def _position(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LONGEST_QUEUE else None


def _money(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def _sentence(value: Any) -> str:
    """What RunComfy says, fit for a log and a report."""
    text = _QUERY.sub(r"\1", _text(value))
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _text(value: Any) -> str:
    """An error as one sentence, whatever shape it came in: text, object or list of either."""
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case [*parts]:
            return "; ".join(filter(None, map(_text, parts)))
        case Mapping():
            where = value.get("loc") or value.get("field") or ""
            place = ".".join(map(str, where)) if isinstance(where, list) else str(where)
            said = next(
                (value[k] for k in ("msg", "message", "error_message", "error") if value.get(k)),
                None,
            )
            text = _text(said) or str(dict(value))
            return f"{place}: {text}" if place else text
        case _:
            return str(value)
