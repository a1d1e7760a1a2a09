"""The errors of a call about one request, and which of them may pass if it is made again."""

from comfyline.errors import ComfylineError, Expired, Refused, TryLater, Unreachable


class Passing(Exception):
    """Asked again, RunComfy may answer; `error` is what to raise when the patience is over."""

    def __init__(self, error: ComfylineError, retry_after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after


def slow_down(request_id: str | None) -> TryLater:
    """RunComfy answered 429."""
    return TryLater(
        "RunComfy asks to slow down (HTTP 429)",
        hint="Run again later: nothing is lost.",
        request_id=request_id,
    )


def away(reason: str, request_id: str | None) -> Unreachable:
    """No answer came, or none of RunComfy's."""
    return Unreachable(
        f"RunComfy cannot be reached: {reason}",
        hint="What was submitted is safe: run again or `comfyline reconcile` when it is back.",
        request_id=request_id,
    )


def expired(request_id: str) -> Expired:
    """RunComfy itself says that it does not know the request."""
    return Expired(
        f"RunComfy no longer knows request {request_id}",
        hint="Results are kept for 7 days.",
        request_id=request_id,
    )


def with_request(error: ComfylineError, request_id: str | None) -> ComfylineError:
    """A refused call about a request that was accepted long ago: that one may go on."""
    error.request_id = request_id
    if isinstance(error, Refused) and request_id:
        error.hint = "The request may still be running: see `comfyline jobs`."
    return error
