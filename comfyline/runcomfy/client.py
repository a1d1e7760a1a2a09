"""The Model API, one method a call.

Only what may be asked twice is repeated here: GETs, and `cancel`, which asked twice is the same.
`submit` sends once and says what is known of it (`verdict`); whether it may be sent again is the
ledger's decision. Which failure passes, and when to ask again, the error says itself.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from comfyline.config.account import command
from comfyline.errors import BrokenAnswer, ComfylineError, InputInvalid, NotKnownNow, TokenRejected
from comfyline.files import require_space
from comfyline.runcomfy.results import keep_result, read_cached_result
from comfyline.runcomfy.retry import RetryBudget
from comfyline.runcomfy.transport import (
    ENCODINGS,
    Connections,
    Response,
    TrackedBody,
    read_response,
)
from comfyline.runcomfy.verdict import (
    Accepted,
    No,
    Verdict,
    away,
    judge_answer,
    judge_exception,
    require_answer,
)
from comfyline.runcomfy.wire import (
    Balance,
    Page,
    RequestResult,
    RequestStatus,
    model_path,
    read_cancel,
    request_body,
    request_path,
)
from comfyline.storage.connection_errors import what_broke

_TIMEOUT = httpx.Timeout(30, connect=10, pool=60)
SUBMIT_TIMEOUT = httpx.Timeout(30, connect=10, pool=10)
# In all, however slowly an answer trickles in: shorter than the lease under which it is sent.
SUBMIT_SECONDS = 45
# The same for all else; a result in sync mode carries its pictures in it.
_CALL_SECONDS = 600
MOST_BYTES = 16 * 2**20
"""How large an answer may be: a page of the catalogue is a few megabytes."""
_MOST_RESULT_BYTES = 512 * 2**20
"""The same for a result."""
RESULT_ROOM = 64 * 2**20
"""Room on the disk that there has to be before a result is asked for."""
_PAGE_LENGTH = 100
"""Models a page; a server may send fewer."""
_MOST_PAGES = 1000
_TOKEN = re.compile(r"[\x21-\x7e]+")

log = logging.getLogger(__name__)

T = TypeVar("T")
Query = Mapping[str, str | int]


class RuncomfyClient:
    """The one HTTP client to RunComfy; used as an async context manager.

    `base_url` is the API's origin. `balance_url` is the only address elsewhere that may get the
    token, and only when it is named. `retry_budget` is shared with whoever waits for RunComfy in
    other ways. Raises `TokenRejected` for a token that no HTTP header can hold.
    """

    def __init__(
        self, base_url: str, token: str, retry_budget: RetryBudget, balance_url: str | None = None
    ) -> None:
        if not _TOKEN.fullmatch(token):
            # Said here, because the HTTP library would quote the token in its own error.
            raise TokenRejected(
                "The RunComfy token is empty, or contains a space or another invalid character",
                hint="Copy it again from your RunComfy profile.",
            )
        self.retry_budget = retry_budget
        self._told_broken: set[str] = set()
        self._base_url = base_url
        self._token = token
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": ", ".join(ENCODINGS),
            "Authorization": f"Bearer {token}",
            "User-Agent": "comfyline",
        }
        self._balance_url = balance_url
        self._balance: float | None = None
        self._balance_at = float("-inf")
        self._connections = Connections(shows_paths=True)

    async def __aenter__(self) -> Self:
        """Open nothing by itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._connections.aclose()

    async def submit(self, model_id: str, inputs: Mapping[str, Any]) -> Verdict:
        """Send the one POST that can cost money, once, and says what is known of it.

        Never raises for anything that happens on the wire.
        """
        try:
            path, body = model_path(model_id), request_body(model_id, inputs)
        except InputInvalid as error:
            return No(error)
        tracked, said = TrackedBody(body), b""
        about_body = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        try:
            request = httpx.Request(
                "POST",
                f"{self._base_url}{path}",
                headers={**self._headers, **about_body},
                content=tracked,
                extensions={"timeout": SUBMIT_TIMEOUT.as_dict(), "trace": tracked.trace},
            )
            async with (
                asyncio.timeout(SUBMIT_SECONDS),
                aclosing(await self._connections.send(request, alone=True)) as answer,
            ):
                # One without end says no more than its status does.
                with suppress(BrokenAnswer):
                    said = await _held(answer, MOST_BYTES)
            response = read_response(answer, said, self._token)
            verdict = judge_answer(
                response.status, response.content, response.retry_after, tracked.progress
            )
        except Exception as error:  # noqa: BLE001  # what the table does not name is unknown
            return judge_exception(error, tracked.progress)
        if isinstance(verdict, Accepted | No):
            self.retry_budget.answered()
        return verdict

    async def status(self, request_id: str) -> RequestStatus:
        """Ask where a request stands. Raises `NotKnownNow` at once: who polls asks again anyway."""
        path = f"{request_path(request_id)}/status"
        return await self._call(_content(RequestStatus.read), path, request_id)

    async def result(self, request_id: str, cache: Path) -> RequestResult:
        """Ask for the outputs and charge of a request; once completed, durable in `cache` first.

        An answer in sync mode exists only once, so it is written down before anything else
        happens; when the file is there already, RunComfy is not asked again. Without room for an
        answer it is not asked at all, and one that says it is larger is not read. Raises
        `DiskFull`.
        """
        if kept := await asyncio.to_thread(read_cached_result, cache, request_id):
            return kept
        try:
            # How large it is only the answer tells, which may come only once.
            await asyncio.to_thread(require_space, cache.parent, RESULT_ROOM)
            response = await self._result(
                lambda it: it, request_id, room=cache.parent, waits_to_be_known=True
            )
            return await asyncio.to_thread(keep_result, response, cache)
        except ComfylineError as error:
            error.request_id = request_id
            raise

    async def charge(self, request_id: str) -> RequestResult:
        """Ask for the charge alone: the output, which may be large, is not kept.

        Not for what is still to be collected, because in sync mode this would be its only answer.
        """
        return await self._result(_content(RequestResult.read), request_id)

    async def _result(
        self,
        read: Callable[[Response], T],
        request_id: str,
        *,
        room: Path | None = None,
        waits_to_be_known: bool = False,
    ) -> T:
        return await self._call(
            read,
            f"{request_path(request_id)}/result",
            request_id,
            query={"include_cost": "true"},
            most_bytes=_MOST_RESULT_BYTES,
            room=room,
            waits_to_be_known=waits_to_be_known,
        )

    async def cancel(self, request_id: str) -> str:
        """Ask to cancel a queued request; return RunComfy's outcome word."""
        path = f"{request_path(request_id)}/cancel"
        return await self._call(_content(read_cancel), path, request_id, method="POST")

    async def catalogue_entry(self, model_id: str) -> Mapping[str, Any]:
        """Ask for one entry of the public catalogue. Raises `Refused` for no such model."""
        return await self._call(_content(dict[str, Any]), model_path(model_id))

    async def models(
        self, search: str | None = None, category: str | None = None
    ) -> list[Mapping[str, Any]]:
        """List every entry of the public catalogue that fits once, as RunComfy writes it.

        Ends with the total, where it is said, else with a page that brings nothing new: an empty
        one, or the same again from a server that ignores `offset`. Raises `BrokenAnswer` for a
        catalogue without an end.
        """
        asked = {"search": search, "category": category}
        query = {name: value for name, value in asked.items() if value}
        found: dict[str, Mapping[str, Any]] = {}
        seen = 0
        for _ in range(_MOST_PAGES):
            page = await self._call(
                _content(Page.read),
                "/v1/models",
                query={**query, "limit": _PAGE_LENGTH, "offset": seen},
            )
            new = {name: entry for name, entry in page.entries.items() if name not in found}
            found |= new
            seen += len(page.models)
            if not new or seen == page.total:
                return list(found.values())
        raise BrokenAnswer(f"RunComfy's catalogue has more than {_MOST_PAGES} pages")

    async def balance(self) -> float | None:
        """Ask what the account holds, in USD; None when no address was named or nothing is said.

        Asked once: it lies with another server, whose trouble is none of the API's.
        """
        if self._balance_url is None:
            return None
        return Balance.read((await self._once("GET", self._balance_url)).content).balance_usd

    async def known_balance(self, max_age: float = 0) -> float | None:
        """Tell the balance as evidence, at most `max_age` seconds old; None for whatever fails."""
        if time.monotonic() - self._balance_at >= max_age:
            try:
                self._balance = await self.balance()
            except ComfylineError:
                self._balance = None
            self._balance_at = time.monotonic()
        return self._balance

    async def _call(
        self,
        read: Callable[[Response], T],
        path: str,
        request_id: str | None = None,
        *,
        method: str = "GET",
        query: Query | None = None,
        most_bytes: int | None = None,
        room: Path | None = None,
        waits_to_be_known: bool = False,
    ) -> T:
        """Make one call that may be asked twice, repeated while the retry budget lasts.

        `room`: the folder that has to have room for the answer. `waits_to_be_known`: also while
        RunComfy does not know the request.
        """

        async def once() -> T:
            url = f"{self._base_url}{path}"
            try:
                return read(await self._once(method, url, request_id, query, most_bytes, room))
            except BrokenAnswer as broken:
                if broken.passing and request_id and request_id not in self._told_broken:
                    self._told_broken.add(request_id)
                    log.warning("request %s is asked about again: %s", request_id, broken.message)
                raise

        try:
            return await self.retry_budget.repeat(
                once, lambda error: waits_to_be_known and isinstance(error, NotKnownNow)
            )
        except ComfylineError as error:
            error.request_id = request_id
            raise

    async def _once(
        self,
        method: str,
        url: str,
        request_id: str | None = None,
        query: Query | None = None,
        most_bytes: int | None = None,
        room: Path | None = None,
    ) -> Response:
        """Return the answer to one question. Raise the error that any other answer stands for."""
        request = httpx.Request(
            method,
            url,
            params=query,
            headers=self._headers,
            extensions={"timeout": _TIMEOUT.as_dict()},
        )
        try:
            async with (
                asyncio.timeout(min(_CALL_SECONDS, self.retry_budget.seconds_for_a_try)),
                aclosing(await self._connections.send(request, request_id=request_id)) as answer,
            ):
                if room:
                    # Before it is read: what is sent only once is not sent in vain.
                    promised = int(answer.headers.get("Content-Length", 0))
                    await asyncio.to_thread(require_space, room, promised)
                body = await _held(answer, most_bytes or MOST_BYTES)
        except (httpx.HTTPError, TimeoutError) as error:
            raise away(what_broke(error), request_id) from error
        return require_answer(read_response(answer, body, self._token), request_id)


async def _held(answer: httpx.Response, most_bytes: int) -> bytes:
    """Read the body of an answer. Raises `BrokenAnswer` for one that is larger than any."""
    pieces: list[bytes] = []
    left = most_bytes
    async for piece in answer.aiter_bytes():
        left -= len(piece)
        if left < 0:
            raise BrokenAnswer(
                f"An answer from RunComfy is larger than {most_bytes >> 20} MB",
                hint=f"What was submitted is safe. Run again, or {command('reconcile')} later.",
            )
        pieces.append(piece)
    return b"".join(pieces)


def _content(read: Callable[[Any], T]) -> Callable[[Response], T]:
    return lambda response: read(response.content)
