"""What is sent and what comes back: paths and bodies, and JSON from RunComfy as frozen values.

What no server could take is refused here with `InputInvalid`, before anything leaves. Above this no
dict of RunComfy's travels, and every text of its that goes further is fit for a log and a
terminal: no query of a URL, no whole file, no control characters, a bounded length.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from reprlib import Repr
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from comfyline.config.account import command
from comfyline.errors import BrokenAnswer, InputInvalid, Problem
from comfyline.job import JobState
from comfyline.redact import without_secrets
from comfyline.runcomfy.data_uris import EmbeddedUri

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
M = TypeVar("M", bound=BaseModel)


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


def _junk_is_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_OrNone = Annotated[T | None, WrapValidator(_junk_is_none)]
"""The value when it is one, else None."""

_RequestId = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,128}$")]
_Dollars = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Charge = Annotated[_Dollars, Field(ge=0)]
_Place = Annotated[StrictInt, Field(ge=0, le=_LONGEST_QUEUE)]


class _Answer(BaseModel):
    """One answer of RunComfy's.

    Strict where something is done with a field: an id, a status or an amount of money is what it
    must be, and is never made from something similar. Tolerant of the rest: an unknown field is not
    seen, and junk in a field that only informs is as good as none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class _SubmissionAnswer(_Answer):
    """`POST /v1/models/{model_id}`: the request id is all that is needed of it."""

    request_id: _RequestId


class _AboutRequest(_Answer):
    """What any answer about a request may say of which it is about, and how that ended."""

    request_id: _OrNone[StrictStr] = None
    status: _OrNone[StrictStr] = None
    outcome: _OrNone[StrictStr] = None


class _StatusAnswer(_Answer):
    """`GET /v1/requests/{id}/status`."""

    status: StrictStr
    queue_position: _OrNone[_Place] = None
    error: Any = None
    error_message: Any = None


class _ResultAnswer(_StatusAnswer):
    """`GET /v1/requests/{id}/result`: a cost that is no amount of money is unknown, never nought.

    `output` stays as it came: its shape is the model's own.
    """

    output: Any = None
    cost: _OrNone[_Charge] = None
    created_at: _OrNone[datetime] = None
    model_id: _OrNone[StrictStr] = None
    model: _OrNone[StrictStr] = None


class _CataloguePage(_Answer):
    """`GET /v1/models`: one page. `total` is how many models there are on all pages, if said."""

    models: list[Any]
    total: _OrNone[Annotated[StrictInt, Field(ge=0)]] = None


class _BalanceAnswer(_Answer):
    """`GET {balance_url}`; an account may owe something."""

    balance_usd: _OrNone[_Dollars] = None


class _Short(Repr):
    """Objects in few words; a text loses its end, since one without its middle hides no query."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, _MOST_PARTS

    def repr_str(self, x: str, level: int) -> str:  # noqa: ARG002  # as it is called
        return repr(x[: _LONGEST_READ // 2])


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """Where a request stands. `state` is None for a word that nobody documented: not an end."""

    word: str
    state: JobState | None
    queue_position: int | None
    error: str


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The end of a request: its status, its output as it came, and the charge when known.

    `created_at` is when RunComfy took it and `model_id` for which model, where the answer says so.
    `embedded` says where the large media lie for which `output` has only a stand-in.
    """

    status: RequestStatus
    output: Any
    cost_usd: float | None
    created_at: datetime | None = None
    model_id: str | None = None
    embedded: Mapping[str, EmbeddedUri] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error that RunComfy states, over whatever HTTP status it came.

    `has_code`: there is a code, also where it is none that can be read.
    """

    code: int | None
    message: str
    has_code: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the catalogue: its entries by model id, how many there were, and the total."""

    entries: Mapping[str, Mapping[str, Any]]
    length: int
    total: int | None


def read_request_id(answer: Any) -> str:
    """Read the request id of an accepted submission. Raises `BrokenAnswer` when it is malformed."""
    return _as(_SubmissionAnswer, answer, "it names no valid request_id").request_id


def read_status(answer: Any) -> RequestStatus:
    """Read a status or result answer. Raises `BrokenAnswer` when no status is in it."""
    return _status(_as(_StatusAnswer, answer, "it names no status"))


def check_answer(answer: Any, request_id: str) -> None:
    """Raise `BrokenAnswer` for an answer about another request, or one that contradicts itself.

    An answer that does not say which request it is about is taken for one to the question.
    """
    said = _AboutRequest.model_validate(answer) if isinstance(answer, Mapping) else _AboutRequest()
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


def read_result(answer: Any, embedded: Mapping[str, EmbeddedUri] | None = None) -> RequestResult:
    """Read a result answer. Raises `BrokenAnswer` when no status is in it."""
    read = _as(_ResultAnswer, answer, "it names no status")
    created = read.created_at
    if created is not None and created.tzinfo is None:
        created = created.replace(tzinfo=UTC)
    model_id = _fit(read.model_id or read.model or "") or None
    status = _status(read)
    return RequestResult(status, read.output, read.cost, created, model_id, embedded or {})


def read_cancel(answer: Any) -> str:
    """Read what became of a request to be cancelled: RunComfy's outcome word, or "unknown".

    A repeated call finds cancelled what the first has done, so the status has the first word.
    """
    read = _as(_AboutRequest, answer, "it is not a JSON object")
    if read.status and _state(read.status) is JobState.CANCELLED:
        return "cancelled"
    return _fit(read.outcome or read.status or "") or "unknown"


def read_page(answer: Any) -> Page:
    """Read a page of the catalogue; entries without a name are left out. Raises `BrokenAnswer`."""
    page = _as(_CataloguePage, answer, "it lists no models")
    entries: dict[str, Mapping[str, Any]] = {}
    for entry in page.models:
        name = entry.get("model_id") if isinstance(entry, Mapping) else None
        if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME:
            entries.setdefault(name, entry)
    return Page(entries, len(page.models), page.total)


def read_balance(answer: Any) -> float | None:
    """Read what the account holds, in USD; None when the answer does not say."""
    return _as(_BalanceAnswer, answer, "it is not a JSON object").balance_usd


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


def _as(model: type[M], answer: Any, otherwise: str) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError:
        # What pydantic says quotes the answer, and nobody knows what is in it.
        raise _broken(otherwise) from None


def _broken(why: str, request_id: str | None = None) -> BrokenAnswer:
    return BrokenAnswer(
        f"RunComfy's address does not answer as RunComfy does: {why}",
        hint=f"What was submitted is safe. Run again, or {command('reconcile')} later.",
        request_id=request_id,
    )


def _status(read: _StatusAnswer) -> RequestStatus:
    return RequestStatus(
        word=_fit(read.status),
        state=_state(read.status),
        queue_position=read.queue_position,
        error=_sentence(read.error or read.error_message),
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
