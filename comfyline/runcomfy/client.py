"""The Model API, one method a call. The token goes to this origin and nowhere else.

Only GETs are repeated here. `submit` sends once and says what is known of it (`verdict`); whether
it may be sent again is the ledger's decision.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from comfyline.errors import ComfylineError, Expired, Refused, TryLater, Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.outage import Outage, backoff
from comfyline.runcomfy.verdict import Verdict, judge_answer, judge_exception, refusal
from comfyline.runcomfy.wire import (
    BrokenAnswer,
    RequestResult,
    RequestStatus,
    read_error,
    read_result,
    read_status,
)

_TIMEOUT = httpx.Timeout(30, connect=10, pool=60)
_SUBMIT_TIMEOUT = httpx.Timeout(30, connect=10, pool=10)
# In all, however slowly an answer trickles in: shorter than the lease under which it is sent.
_SUBMIT_SECONDS = 45
# Idle connections are dropped before common servers drop them (5 s and more): a POST on a
# connection that dies under it is in doubt, which nobody wants.
_LIMITS = httpx.Limits(max_connections=100, keepalive_expiry=2)
_GONE_CODE = 404001

T = TypeVar("T")


class RuncomfyClient:
    """One HTTP pool to RunComfy; used as an async context manager."""

    def __init__(self, base_url: str, token: str, outage: Outage) -> None:
        self._outage = outage
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            follow_redirects=False,
            http2=True,
            timeout=_TIMEOUT,
            limits=_LIMITS,
        )

    async def __aenter__(self) -> Self:
        """Opens nothing by itself: connections are made when they are needed."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def submit(self, model_id: str, inputs: Mapping[str, Any]) -> Verdict:
        """Sends the one POST that can cost money, once, and says what is known of it.

        Never raises for anything that happens on the wire.
        """
        try:
            async with asyncio.timeout(_SUBMIT_SECONDS):
                answer = await self._http.post(
                    f"/v1/models/{quote(model_id)}", json=dict(inputs), timeout=_SUBMIT_TIMEOUT
                )
        except Exception as error:  # noqa: BLE001  # what the table does not name is unknown
            return judge_exception(error)
        return judge_answer(answer.status_code, _json_or_none(answer.content), _retry_after(answer))

    async def status(self, request_id: str) -> RequestStatus:
        """Where a request stands. Raises `Expired` when RunComfy no longer knows it."""
        return await self._call("GET", f"/v1/requests/{request_id}/status", request_id, read_status)

    async def result(self, request_id: str, spool: Path) -> RequestResult:
        """The outputs and the charge of a request; once completed, durable in `spool` first.

        An answer in sync mode exists only once, so it is written down before anything else
        happens; when the file is there already, RunComfy is not asked again.
        """
        if await asyncio.to_thread(spool.exists):
            return read_result(json.loads(await asyncio.to_thread(spool.read_bytes)))
        path = f"/v1/requests/{request_id}/result?include_cost=true"
        answer = await self._call("GET", path, request_id, _same)
        result = read_result(answer)
        if result.status.state is JobState.COMPLETED:
            await asyncio.to_thread(_write_durably, spool, answer)
        return result

    async def cancel(self, request_id: str) -> str:
        """Asks to cancel a queued request; answers RunComfy's outcome word."""
        path = f"/v1/requests/{request_id}/cancel"
        answer = await self._call("POST", path, request_id, _same)
        return str(answer.get("outcome", answer.get("status", "unknown")))

    async def catalogue_entry(self, model_id: str) -> Mapping[str, Any]:
        """One entry of the public catalogue. Raises `Refused` when there is no such model."""
        return await self._call("GET", f"/v1/models/{quote(model_id)}", None, _same)

    async def _call(
        self,
        method: str,
        path: str,
        request_id: str | None,
        read: Callable[[Mapping[str, Any]], T],
    ) -> T:
        """One idempotent call, repeated while RunComfy is away, up to the shared patience."""
        attempt = 0
        while True:
            try:
                answer = read(await self._once(method, path, request_id))
            except BrokenAnswer as broken:
                error: ComfylineError = _away(str(broken), request_id)
            except (Unreachable, TryLater) as away:
                error = away
            else:
                self._outage.answered()
                return answer
            if not self._outage.failed():
                raise error
            await asyncio.sleep(backoff(attempt, getattr(error, "retry_after", None)))
            attempt += 1

    async def _once(self, method: str, path: str, request_id: str | None) -> Mapping[str, Any]:
        try:
            answer = await self._http.request(method, path)
        except httpx.HTTPError as error:
            raise _away(type(error).__name__, request_id) from error
        content = _json_or_none(answer.content)
        error_said = read_error(content)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _SlowDown(_retry_after(answer), request_id)
        if answer.is_server_error or answer.is_redirect:
            raise _away(f"HTTP {answer.status_code}", request_id)
        if answer.is_client_error or (error_said and error_said.code is not None):
            code = error_said.code if error_said else None
            if request_id and (answer.status_code in {404, 410} or code == _GONE_CODE):
                raise Expired(
                    f"RunComfy no longer knows request {request_id}",
                    hint="Results are kept for 7 days.",
                    request_id=request_id,
                )
            raise _with_request(refusal(answer.status_code, error_said), request_id)
        if not isinstance(content, dict):
            raise _away("an answer that is no JSON object", request_id)
        return content


class _SlowDown(TryLater):
    """A 429 that carries when to come back."""

    def __init__(self, retry_after: float | None, request_id: str | None) -> None:
        super().__init__(
            "RunComfy asks to slow down (HTTP 429)",
            hint="Run again later: nothing is lost.",
            request_id=request_id,
        )
        self.retry_after = retry_after


def _away(reason: str, request_id: str | None) -> Unreachable:
    return Unreachable(
        f"RunComfy cannot be reached: {reason}",
        hint="What was submitted is safe: run again or `comfyline reconcile` when it is back.",
        request_id=request_id,
    )


def _with_request(error: ComfylineError, request_id: str | None) -> ComfylineError:
    error.request_id = request_id
    if isinstance(error, Refused) and request_id:
        error.hint = "The request may still be running: see `comfyline jobs`."
    return error


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or an HTTP date."""
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _same(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return answer


def _write_durably(target: Path, answer: Mapping[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(answer, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
