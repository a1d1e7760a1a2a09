"""What RunComfy writes, one pydantic model an answer.

Strict where something is done with a field: an id, a status or an amount of money is what it must
be, and is never made from something similar. Tolerant of the rest: an unknown field is not seen,
and junk in a field that only informs is as good as none.
"""

from datetime import datetime
from typing import Annotated, Any, TypeVar

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

_LONGEST_QUEUE = 1_000_000

T = TypeVar("T")


def _junk_is_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


OrNone = Annotated[T | None, WrapValidator(_junk_is_none)]
"""The value when it is one, else None."""

RequestId = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Dollars = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Charge = Annotated[Dollars, Field(ge=0)]
Place = Annotated[StrictInt, Field(ge=0, le=_LONGEST_QUEUE)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class ErrorBody(_Answer):
    """An error in any of its spellings; also seen with HTTP 200."""

    error_code: Any = None
    error_message: Any = None
    message: Any = None
    error: Any = None
    detail: Any = None


class SubmissionAnswer(_Answer):
    """`POST /v1/models/{model_id}`: the request id is all that is needed of it."""

    request_id: RequestId
    error_code: Any = None


class AboutRequest(_Answer):
    """What any answer about a request may say of which it is about, and how that ended."""

    request_id: OrNone[StrictStr] = None
    status: OrNone[StrictStr] = None
    outcome: OrNone[StrictStr] = None


class StatusAnswer(_Answer):
    """`GET /v1/requests/{id}/status`."""

    status: StrictStr
    queue_position: OrNone[Place] = None
    error: Any = None
    error_message: Any = None


class ResultAnswer(StatusAnswer):
    """`GET /v1/requests/{id}/result`: a cost that is no amount of money is unknown, never nought.

    `output` stays as it came: its shape is the model's own.
    """

    output: Any = None
    cost: OrNone[Charge] = None
    created_at: OrNone[datetime] = None
    model_id: OrNone[StrictStr] = None
    model: OrNone[StrictStr] = None


class CancelAnswer(_Answer):
    """`POST /v1/requests/{id}/cancel`."""

    status: OrNone[StrictStr] = None
    outcome: OrNone[StrictStr] = None


class CataloguePage(_Answer):
    """`GET /v1/models`: one page. `total` is how many models there are on all pages, if said."""

    models: list[Any]
    total: OrNone[Annotated[StrictInt, Field(ge=0)]] = None


class CatalogueListing(_Answer):
    """The name of one entry of a page; all else of it belongs to whoever asked."""

    model_id: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=300)]


class BalanceAnswer(_Answer):
    """`GET {balance_url}`; an account may owe something."""

    balance_usd: OrNone[Dollars] = None
