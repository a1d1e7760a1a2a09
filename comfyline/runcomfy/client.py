"""The Model API, one method a call. The token goes to this origin and nowhere else.

Only GETs are repeated here, and `cancel`, which asked twice is the same. `submit` sends once and
says what is known of it (`verdict`); whether it may be sent again is the ledger's decision.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from comfyline.errors import ComfylineError, InputInvalid, Problem, TokenRejected
from comfyline.job import JobState
from comfyline.runcomfy.downloads import output_urls
from comfyline.runcomfy.outage import Outage, backoff, read_retry_after
from comfyline.runcomfy.passing import Passing, away, expired, slow_down, with_request
from comfyline.runcomfy.pool import open_pool
from comfyline.runcomfy.spool import read_spool, unread, write_spool
from comfyline.runcomfy.verdict import No, Verdict, judge_answer, judge_exception, refusal
from comfyline.runcomfy.wire import (
    BrokenAnswer,
    RequestResult,
    RequestStatus,
    names_status,
    read_error,
    read_result,
    read_status,
)

_TIMEOUT = httpx.Timeout(30, connect=10, pool=60)
_SUBMIT_TIMEOUT = httpx.Timeout(30, connect=10, pool=10)
# In all, however slowly an answer trickles in: shorter than the lease under which it is sent.
_SUBMIT_SECONDS = 45
# The same for all else; a result in sync mode carries its pictures in it.
_CALL_SECONDS = 600
_LIMITS = httpx.Limits(max_connections=100)
# A POST on a connection that dies under it is in doubt, so each gets a connection of its own.
_SUBMIT_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=0)
_GONE_CODE = 404001
_PASSING_STATUS = {408, 425}
_TOKEN = re.compile(r"[\x21-\x7e]+")

T = TypeVar("T")


class RuncomfyClient:
    """The HTTP pools to RunComfy; used as an async context manager.

    Raises `TokenRejected` for a token that no HTTP header can hold.
    """

    def __init__(self, base_url: str, token: str, outage: Outage) -> None:
        if not _TOKEN.fullmatch(token):
            # Said here, because the HTTP library would quote the token in its own error.
            raise TokenRejected(
                "The RunComfy token is empty, or holds a space or another character that no token "
                "has",
                hint="Copy it again from your RunComfy profile.",
            )
        self._outage = outage
        self._token = token.encode()
        headers = {"Authorization": f"Bearer {token}"}
        verify = httpx.create_ssl_context()
        self._http = open_pool(
            base_url=base_url, headers=headers, timeout=_TIMEOUT, limits=_LIMITS, verify=verify
        )
        self._submits = open_pool(
            base_url=base_url,
            headers=headers,
            timeout=_SUBMIT_TIMEOUT,
            limits=_SUBMIT_LIMITS,
            verify=verify,
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
        await self._submits.aclose()

    async def submit(self, model_id: str, inputs: Mapping[str, Any]) -> Verdict:
        """Sends the one POST that can cost money, once, and says what is known of it.

        Never raises for anything that happens on the wire.
        """
        try:
            call = self._submits.build_request(
                "POST", f"/v1/models/{quote(model_id)}", json=dict(inputs)
            )
        except (ValueError, TypeError, RecursionError) as error:
            problem = Problem(model_id, f"the inputs cannot be written as JSON: {error}")
            return No(InputInvalid([problem]))
        try:
            async with asyncio.timeout(_SUBMIT_SECONDS):
                answer = await self._submits.send(call)
            return judge_answer(answer.status_code, self._content(answer), _retry_after(answer))
        except Exception as error:  # noqa: BLE001  # what the table does not name is unknown
            return judge_exception(error)

    async def status(self, request_id: str) -> RequestStatus:
        """Where a request stands. Raises `Expired` when RunComfy no longer knows it."""
        return await self._call("GET", f"{_path(request_id)}/status", request_id, read_status)

    async def result(self, request_id: str, spool: Path) -> RequestResult:
        """The outputs and the charge of a request; once completed, durable in `spool` first.

        An answer in sync mode exists only once, so it is written down before anything else
        happens; when the file is there already, RunComfy is not asked again.
        """
        if kept := await asyncio.to_thread(read_spool, spool):
            return kept
        path = f"{_path(request_id)}/result?include_cost=true"
        answer = await self._call("GET", path, request_id, _same)
        state = read_status(answer).state if names_status(answer) else None
        if any(output_urls(answer.get("output"))):
            # Written down before it is understood; only a completed one is never asked for again.
            target = spool if state is JobState.COMPLETED else unread(spool)
            await asyncio.to_thread(write_spool, target, answer)
        try:
            return read_result(answer)
        except BrokenAnswer as broken:
            raise away(str(broken), request_id) from broken

    async def cancel(self, request_id: str) -> str:
        """Asks to cancel a queued request; answers RunComfy's outcome word."""
        answer = await self._call("POST", f"{_path(request_id)}/cancel", request_id, _same)
        if names_status(answer) and read_status(answer).state is JobState.CANCELLED:
            # Whatever the outcome says: a repeated call finds cancelled what the first has done.
            return "cancelled"
        return str(answer.get("outcome") or answer.get("status") or "unknown")

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
        attempt, failing_since = 0, None
        while True:
            try:
                answer = read(await self._once(method, path, request_id))
            except BrokenAnswer as broken:
                passing = Passing(away(str(broken), request_id))
            except Passing as error:
                passing = error
            except ComfylineError:
                self._outage.answered()
                raise
            else:
                self._outage.answered()
                return answer
            failing_since = self._outage.now() if failing_since is None else failing_since
            left = self._outage.time_left(failing_since)
            if left <= 0 or (passing.retry_after or 0) > left:
                raise passing.error from passing.__cause__
            await self._outage.sleep(min(backoff(attempt, passing.retry_after), left))
            attempt += 1

    async def _once(self, method: str, path: str, request_id: str | None) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answer = await self._http.request(method, path)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Passing(away(type(error).__name__, request_id)) from error
        status, content = answer.status_code, self._content(answer)
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise Passing(slow_down(request_id), _retry_after(answer))
        said = read_error(content)
        code = said.code if said else None
        # 404 without a word of RunComfy's is somebody else's page: a wrong address, a proxy.
        lost = status in {404, 410} and said is None
        refused = answer.is_client_error and status not in _PASSING_STATUS and not lost
        stated = answer.is_success and code is not None and not names_status(content)
        if refused or stated:
            if request_id and (status in {404, 410} or code == _GONE_CODE):
                raise expired(request_id)
            raise with_request(refusal(status, said), request_id)
        if not answer.is_success:
            raise Passing(away(f"HTTP {status}", request_id), _retry_after(answer))
        if not isinstance(content, dict):
            raise Passing(away("an answer that is no JSON object", request_id))
        return content

    def _content(self, answer: httpx.Response) -> Any:
        """The JSON of an answer, None when it is none. An error that quotes the token loses it."""
        content = _json_or_none(answer.content)
        if self._token in answer.content and (not answer.is_success or read_error(content)):
            return _json_or_none(answer.content.replace(self._token, b"***"))
        return content


def _path(request_id: str) -> str:
    return f"/v1/requests/{quote(request_id, safe='')}"


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _retry_after(answer: httpx.Response) -> float | None:
    return read_retry_after(answer.headers.get("Retry-After", ""))


def _same(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return answer
