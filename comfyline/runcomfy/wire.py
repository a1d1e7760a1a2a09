"""What is sent and what comes back: paths and bodies, and JSON from RunComfy as frozen values.

What no server could take is refused here with `InputInvalid`, before anything leaves. Above this no
dict of RunComfy's travels, and every text of its that goes further is fit for a log and a
terminal: no query of a URL, no whole file, no control characters, a bounded length.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from reprlib import Repr
from typing import Annotated, Any, ClassVar, Self, TypeVar
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from comfyline.config.account import command
from comfyline.errors import BrokenAnswer, InputInvalid, Problem
from comfyline.job import JobState
from comfyline.redact import without_secrets

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LONGEST_TEXT = 1000
# Signatures are cut out of what is longer, because they are long themselves.
_LONGEST_READ = 2 * _LONGEST_TEXT
_LONGEST_NAME = 300
_MOST_PARTS = 20
_DEEPEST = 6
_WORDS_OF_AN_ERROR = ("error_message", "message", "error", "detail")
_WORDS_OF_A_PART = ("msg", "message", "error_message", "error")

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

ENDS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
"""The states in which a request is over at RunComfy."""

_LONGEST_QUEUE = 1_000_000

T = TypeVar("T")


def request_path(request_id: str) -> str:
    """Return the path of all calls about one request."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise InputInvalid([Problem("request id", f"{request_id!r} is not a RunComfy request id")])
    return f"/v1/requests/{request_id}"


def model_path(model_id: str) -> str:
    """Return the path of a model: of its catalogue entry, and of the POST that runs it."""
    # A dot as a part would lead to another call, and an empty part to none that is known.
    if {"", ".", ".."} & set(model_id.split("/")):
        raise InputInvalid([Problem(repr(model_id), "this is not a valid model id")])
    return f"/v1/models/{quote(model_id, errors='replace')}"


def request_body(model_id: str, inputs: Mapping[str, Any]) -> bytes:
    """Write the inputs of a model as JSON."""
    try:
        text = json.dumps(dict(inputs), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        problem = Problem(model_id, f"the inputs cannot be written as JSON: {error}")
        raise InputInvalid([problem]) from error


class _Short(Repr):
    """Objects in few words; a text loses its end, since one without its middle hides no query."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, _MOST_PARTS

    def repr_str(self, x: str, level: int) -> str:  # noqa: ARG002  # as it is called
        return repr(x[: _LONGEST_READ // 2])


def _sentence(value: Any) -> str:
    """Make what RunComfy says fit for a log and a report."""
    return _fit(_text(value))


def _fit(text: str) -> str:
    bare = without_secrets(text[:_LONGEST_READ]).strip()
    shown = "".join(c if c.isprintable() else " " for c in bare[:_LONGEST_TEXT])
    return shown if len(bare) <= _LONGEST_TEXT else f"{shown}…"


def _text(value: Any, depth: int = 0) -> str:
    """Write an error as one sentence, whatever shape it came in: text, object or list of either."""
    match value:
        case None:
            return ""
        case str():
            return value[:_LONGEST_READ]
        case [*parts] if depth < _DEEPEST:
            return "; ".join(filter(None, (_text(part, depth + 1) for part in parts[:_MOST_PARTS])))
        case Mapping() if depth < _DEEPEST:
            where = value.get("loc") or value.get("field") or ""
            steps = where[:_MOST_PARTS] if isinstance(where, list) else [where]
            place = ".".join(_text(step, _DEEPEST) for step in steps)
            said = next((value[k] for k in _WORDS_OF_A_PART if value.get(k)), None)
            text = _text(said, depth + 1) or _Short().repr(dict(value))
            return f"{place}: {text}" if place else text
        case _:
            return _Short().repr(value)


def _junk_is_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_OrNone = Annotated[T | None, WrapValidator(_junk_is_none)]
"""The value when it is one, else None."""


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Answer(BaseModel):
    """One answer of RunComfy's.

    Strict where something is done with a field: an id, a status or an amount of money is what it
    must be, and is never made from something similar. Tolerant of the rest: an unknown field is not
    seen, and junk in a field that only informs is as good as none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())
    lacks: ClassVar[str] = "it is not a JSON object"

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read an answer. Raises `BrokenAnswer` for one that lacks what makes it one."""
        try:
            return cls.model_validate(answer)
        except ValidationError:
            # What pydantic says quotes the answer, and nobody knows what is in it.
            raise _broken(cls.lacks) from None


class _AboutRequest(_Answer):
    """What any answer about a request may say of which it is about, and how that ended."""

    request_id: _OrNone[StrictStr] = None
    status: _OrNone[StrictStr] = None
    outcome: _OrNone[StrictStr] = None


class RequestStatus(_Answer):
    """Where a request stands: `GET /v1/requests/{id}/status`."""

    lacks = "it names no status"

    word: Annotated[StrictStr, AfterValidator(_fit)] = Field(validation_alias="status")
    queue_position: _OrNone[Annotated[StrictInt, Field(ge=0, le=_LONGEST_QUEUE)]] = None
    error: Annotated[str, BeforeValidator(_sentence)] = ""

    @model_validator(mode="before")
    @classmethod
    def _either_name(cls, answer: Any) -> Any:
        if not isinstance(answer, Mapping):
            return answer
        return {
            **answer,
            "error": answer.get("error") or answer.get("error_message"),
            "model_id": answer.get("model_id") or answer.get("model"),
        }

    @property
    def state(self) -> JobState | None:
        """The state that the word means; None for one that nobody documented, which is no end."""
        return _STATES.get(self.word.lower())


class RequestResult(RequestStatus):
    """The end of a request: `GET /v1/requests/{id}/result`.

    `output` stays as it came: its shape is the model's own. A cost that is no amount of money is
    unknown, never nought. `created_at` is when RunComfy took it and `model_id` for which model.
    """

    output: Any = None
    cost_usd: _OrNone[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]] = Field(
        None, validation_alias="cost"
    )
    created_at: _OrNone[Annotated[datetime, AfterValidator(_in_utc)]] = None
    model_id: _OrNone[Annotated[StrictStr, Field(min_length=1), AfterValidator(_fit)]] = None


class Page(_Answer):
    """`GET /v1/models`: one page. `total` is how many models there are on all pages, if said."""

    lacks = "it lists no models"

    models: list[Any]
    total: _OrNone[Annotated[StrictInt, Field(ge=0)]] = None

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The entries by model id; those without a name are left out."""
        entries: dict[str, Mapping[str, Any]] = {}
        for entry in self.models:
            name = entry.get("model_id") if isinstance(entry, Mapping) else None
            if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME:
                entries.setdefault(name, entry)
        return entries


class Balance(_Answer):
    """`GET {balance_url}`; an account may owe something."""

    balance_usd: _OrNone[Annotated[float, Field(strict=True, allow_inf_nan=False)]] = None


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error that RunComfy states, over whatever HTTP status it came.

    `has_code`: there is a code, also where it is none that can be read.
    """

    code: int | None
    message: str
    has_code: bool = False


def read_request_id(answer: Any) -> str:
    """Read the request id of an accepted submission. Raises `BrokenAnswer` when it is malformed."""
    said = answer.get("request_id") if isinstance(answer, Mapping) else None
    if not isinstance(said, str) or not _REQUEST_ID.fullmatch(said):
        raise _broken("it names no valid request_id")
    return said


def check_answer(answer: Any, request_id: str) -> None:
    """Raise `BrokenAnswer` for an answer about another request, or one that contradicts itself.

    An answer that does not say which request it is about is taken for one to the question.
    """
    said = _AboutRequest.read(answer if isinstance(answer, Mapping) else {})
    if said.request_id and said.request_id.casefold() != request_id.casefold():
        other = _fit(said.request_id)
        raise _broken(f"asked about request {request_id}, it answers about {other}", request_id)
    state, outcome = _state(said.status or ""), _state(said.outcome or "")
    if state in ENDS and outcome in ENDS and state is not outcome:
        words = f"{said.status} and {said.outcome}"
        raise _broken(f"it calls request {request_id} {_fit(words)} at once", request_id)


def names_status(answer: Any) -> bool:
    """Tell whether an answer says where a request stands, in a word that is known."""
    word = answer.get("status") if isinstance(answer, Mapping) else None
    return isinstance(word, str) and _state(word) is not None


def read_cancel(answer: Any) -> str:
    """Read what became of a request to be cancelled: RunComfy's outcome word, or "unknown".

    A repeated call finds cancelled what the first has done, so the status has the first word.
    """
    read = _AboutRequest.read(answer)
    if read.status and _state(read.status) is JobState.CANCELLED:
        return "cancelled"
    return _fit(read.outcome or read.status or "") or "unknown"


def read_error(answer: Any) -> ApiError | None:
    """Read the error that an answer carries, in whichever spelling; None when it has none.

    A `failed` request also has an `error` field, so of an answer with HTTP 200 only an error with
    a code says that the call itself was refused.
    """
    if not isinstance(answer, Mapping):
        return None
    code = answer.get("error_code")
    named = next((said for k in _WORDS_OF_AN_ERROR if (said := answer.get(k))), None)
    if code is None and named is None:
        return None
    number = _number(code)
    detail, message = _sentence(answer.get("detail")), _sentence(named)
    text = message if detail in message else f"{message}: {detail}"
    said = text or f"error {number or 'without a number'}"
    return ApiError(code=number, message=said, has_code=code is not None)


def _broken(why: str, request_id: str | None = None) -> BrokenAnswer:
    return BrokenAnswer(
        f"RunComfy's address does not answer as RunComfy does: {why}",
        hint=f"What was submitted is safe. Run again, or {command('reconcile')} later.",
        request_id=request_id,
    )


def _state(word: str) -> JobState | None:
    return _STATES.get(word.strip().lower())


def _number(code: Any) -> int | None:
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    try:
        return int(code) if re.fullmatch(r"\d{1,18}", str(code), re.ASCII) else None
    except ValueError:  # Python writes no number of thousands of digits.
        return None
