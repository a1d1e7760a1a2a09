"""What Prefect may remember of a stage, and under which key.

The ledger decides; a remembered result only spares work. So a key holds the ledger, the job, the
attempt and the request: a new attempt is never answered by an old result, nor one ledger by
another's. What is remembered are ids, times and paths, as JSON: no media, no token, no presigned
URL.

poll and fetch are remembered. The others are not, each with its reason beside it.
"""

from typing import Any

from prefect.context import TaskRunContext
from prefect.serializers import JSONSerializer
from pydantic import TypeAdapter

from comfyline.job import CheckedJob
from comfyline.run import FetchedOutputs, Submission
from comfyline.services import Services

_TYPES: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Submission, FetchedOutputs)
}
_TAG = "comfyline"


def of_attempt(context: TaskRunContext, arguments: dict[str, Any]) -> str:
    """Return the key of a stage's result: stage, ledger, job, attempt and request."""
    checked: CheckedJob = arguments["checked"]
    submission: Submission = arguments["submission"]
    stage = context.task.name
    services: Services = arguments["services"]
    of_request = f"{checked.key}-{submission.attempt}-{submission.request_id}"
    return f"{stage}-{services.ledger_id}-{of_request}"


def encode(value: Any) -> Any:
    """Encode a stage's result as JSON; Prefect calls it for what JSON does not know."""
    adapter = _TYPES.get(type(value).__name__)
    if adapter is None:
        raise TypeError(f"a {type(value).__name__} is not remembered")
    return {_TAG: type(value).__name__, "value": adapter.dump_python(value, mode="json")}


def decode(value: dict[str, Any]) -> Any:
    """Decode what `encode` wrote; any other object stays one."""
    adapter = _TYPES.get(value.get(_TAG, ""))
    return adapter.validate_python(value["value"]) if adapter else value


REMEMBERED = JSONSerializer(
    object_encoder=f"{__name__}.{encode.__name__}", object_decoder=f"{__name__}.{decode.__name__}"
)
"""How results are written down."""
