"""What Prefect may remember of a stage, and under which key: of `fetch`, whose files lie here.

The ledger decides; a remembered result only spares work. So a key holds the ledger, the job, the
attempt and the request: a new attempt is never answered by an old result, nor one ledger by
another's. What is remembered are paths, as JSON: no media, no token, no presigned URL. The other
stages are not remembered, each with its reason beside it.
"""

from typing import Any

from prefect.context import TaskRunContext
from prefect.serializers import JSONSerializer
from pydantic import TypeAdapter

from comfyline.job import CheckedJob
from comfyline.run import FetchedOutputs, Submission
from comfyline.services import Services

_FETCHED = TypeAdapter(FetchedOutputs)
_TAG = "comfyline"


def of_attempt(context: TaskRunContext, arguments: dict[str, Any]) -> str:
    """Return the key of a stage's result: stage, ledger, job, attempt and request."""
    checked: CheckedJob = arguments["checked"]
    submission: Submission = arguments["submission"]
    services: Services = arguments["services"]
    # What earlier versions remembered had another form, and no number.
    stage = f"{context.task.name}-2-{services.ledger_id}"
    return f"{stage}-{checked.key}-{submission.attempt}-{submission.request_id}"


def encode(value: FetchedOutputs) -> Any:
    """Encode a stage's result as JSON; Prefect calls it for what JSON does not know."""
    return {_TAG: _FETCHED.dump_python(value, mode="json")}


def decode(value: dict[str, Any]) -> Any:
    """Decode what `encode` wrote; any other object stays one."""
    return _FETCHED.validate_python(value[_TAG]) if _TAG in value else value


REMEMBERED = JSONSerializer(
    object_encoder=f"{__name__}.{encode.__name__}", object_decoder=f"{__name__}.{decode.__name__}"
)
"""How results are written down."""
