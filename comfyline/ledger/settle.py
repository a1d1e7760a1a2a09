"""The end of a request, written down as what it was. Asked twice, it is the same."""

from pathlib import Path

from comfyline.errors import Cancelled, ComfylineError, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.results import output_urls
from comfyline.runcomfy.wire import RequestStatus

_AGAIN = "Run again to submit a new request."


async def settle(
    end: RequestStatus,
    attempt_id: int,
    request_id: str,
    spool: Path,
    client: RuncomfyClient,
    ledger: Ledger,
    took: tuple[float | None, float | None] = (None, None),
) -> Cancelled | GenerationFailed | None:
    """Write the end of a request into the ledger; return why it has no outputs, None if it has.

    Of a request that came to nothing the result is asked as well, and kept in `spool`: the status
    seldom says why, and what it cost. Where it holds the outputs all the same, they are taken.
    It `took` so many seconds in the queue and at work, where that is known.
    """
    if end.state is JobState.COMPLETED:
        await ledger.completed(attempt_id, None, *took)
        return None
    reason, cost_usd = end.error, None
    try:
        result = await client.result(request_id, spool)
    except ComfylineError:
        pass  # The end itself is known; its reason and cost stay unsaid.
    else:
        if result.state is JobState.COMPLETED and any(output_urls(result.output)):
            await ledger.completed(attempt_id, result.cost_usd)
            return None
        reason, cost_usd = reason or result.error, result.cost_usd
    error: Cancelled | GenerationFailed
    if end.state is JobState.CANCELLED:
        error = Cancelled("It was cancelled at RunComfy", hint=_AGAIN, request_id=request_id)
        await ledger.ended(attempt_id, JobState.CANCELLED, error, cost_usd=cost_usd)
    else:
        said = f"RunComfy reports a failure: {reason or 'it gives no reason'}"
        error = GenerationFailed(said, hint=_AGAIN, request_id=request_id)
        await ledger.ended(attempt_id, JobState.FAILED, error, cost_usd=cost_usd)
    return error
