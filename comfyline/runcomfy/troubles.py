"""From what an answer means to the error that a person sees and a retry policy reads."""

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
from comfyline.runcomfy.meaning import Meaning, read_meaning
from comfyline.runcomfy.reply import Reply
from comfyline.runcomfy.wire import ApiError, check_answer, names_status, read_error

_NOTHING_LOST = "Run again later: nothing is lost."


def _safe() -> str:
    return f"What was submitted is safe: run again or {command('reconcile')} when it is back."


def understood(reply: Reply, request_id: str | None) -> Reply:
    """The same answer when it is one to the question. Raises what it stands for otherwise.

    `request_id` is that of the accepted request which the call is about, None for all other calls.
    """
    if request_id:
        check_answer(reply.content, request_id)
    said = read_error(reply.content)
    meaning = read_meaning(reply.status, said)
    if httpx.codes.is_success(reply.status) and names_status(reply.content):
        # A request that failed has an error code as well, and the call about it was answered.
        meaning = Meaning.YES
    match meaning:
        case Meaning.YES if isinstance(reply.content, dict):
            return reply
        case Meaning.YES:
            raise BrokenAnswer(
                "What answers for RunComfy does not speak JSON", hint=_safe(), request_id=request_id
            )
        case Meaning.LATER:
            raise slow_down(reply.status, request_id, reply.retry_after)
        case Meaning.REDIRECT:
            raise _redirected(reply.status, reply.moved_to, request_id)
        case Meaning.AWAY:
            raise away(f"HTTP {reply.status}", request_id, reply.retry_after)
        case Meaning.NOT_HERE:
            raise away(f"HTTP {reply.status}, and not in its words", request_id)
        case _:
            raise refusal(meaning, reply.status, said, request_id)


def refusal(
    meaning: Meaning, http_status: int, said: ApiError | None, request_id: str | None = None
) -> ComfylineError:
    """The error for a call that RunComfy refuses for good."""
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
                f"RunComfy does not know request {request_id} now ({text})",
                hint=f"It was accepted, and is not lost: {command('reconcile')} asks again. If it "
                "stays so, check that this profile is the one that it was submitted with.",
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
    """RunComfy refuses for now."""
    return TryLater(
        f"RunComfy asks to slow down (HTTP {http_status})",
        hint=_NOTHING_LOST,
        request_id=request_id,
        retry_after=retry_after,
    )


def away(reason: str, request_id: str | None, retry_after: float | None = None) -> Unreachable:
    """No answer came, or none of RunComfy's."""
    return Unreachable(
        f"RunComfy cannot be reached: {reason}",
        hint=_safe(),
        request_id=request_id,
        retry_after=retry_after,
    )


def _redirected(http_status: int, moved_to: str, request_id: str | None) -> Redirected:
    to = f" to {moved_to}" if moved_to else ""
    return Redirected(
        f"The address of RunComfy's API redirects{to} (HTTP {http_status}), where no token is sent",
        hint="Check `runcomfy.base_url` in the profile and RUNCOMFY_BASE_URL: it must be the "
        "origin that answers itself.",
        request_id=request_id,
    )
