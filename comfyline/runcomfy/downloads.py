"""Outputs from RunComfy's hosts: no token, streamed to disk, whole or not at all."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from comfyline.broken_connections import what_broke
from comfyline.config.account import command
from comfyline.errors import BrokenOutput, DiskFull, OutputUnreachable
from comfyline.files import disk_full_told
from comfyline.job import MediaInfo
from comfyline.runcomfy.behind import Behind
from comfyline.runcomfy.data_uris import Embedded, decode
from comfyline.runcomfy.hosts import Address, OutputHosts, RefusedOutput
from comfyline.runcomfy.incoming import HEAD_BYTES, Incoming, SpoiltOutput
from comfyline.runcomfy.outage import Sleep, backoff

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from comfyline.runcomfy.pool import Pool

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 1024 * 1024
_AT_A_TIME = 16
_TRIES = 5
_PROOFS = 2
"""How often an output is fetched that turns out to be none once it is there."""
_MOST_HOPS = 3
_MOST_BYTES = 2 * 1024**3
"""Where RunComfy's own command line stops."""
_GRACE = 300.0
_SLOWEST = 16 * 1024
"""Bytes a second, on average, which an output has to come at once the grace is over."""

_MOVED = {301, 302, 303, 307, 308}
_HERE = {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}
_NO_SUCH_RANGE = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
_PASSING_STATUS = {404, 408, 425, 429}
"""4xx answers that may change: 404 because an output may be published a moment late."""


_NOTHING = MediaInfo("")


@dataclass(frozen=True, slots=True)
class Download:
    """A file that arrived whole, with what it shows if that was looked at."""

    sha256: str
    bytes: int
    info: MediaInfo = _NOTHING


class Proof(Protocol):
    """What a file has to be. Both raise `BrokenOutput`; the second one may take its time."""

    def begins(self, head: bytes) -> None:
        """Refuses a file by its beginning, before the rest of it has come."""

    def whole(self, path: Path) -> MediaInfo:
        """Probe a file, which has to be what was expected."""


class _Anything:
    def begins(self, head: bytes) -> None:
        """Takes everything."""

    def whole(self, path: Path) -> MediaInfo:  # noqa: ARG002  # as it is called
        """Proves nothing."""
        return _NOTHING


class _TooSlow(OutputUnreachable):
    """Asking again at once would only take as long again."""


class Downloads:
    """One HTTP pool without credentials; used as an async context manager.

    `hosts` are the patterns that outputs may come from; the origin of `base_url` is one as well.
    `most_bytes` is the size from which on a file is refused; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        base_url: str,
        *,
        most_bytes: int = _MOST_BYTES,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = OutputHosts(hosts, base_url)
        self._most_bytes = most_bytes
        self._sleep = sleep
        self._clock = clock
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._opened: Pool | None = None

    async def __aenter__(self) -> Self:
        """Opens nothing by itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes every connection."""
        if self._opened:
            await self._opened.close()

    async def save(
        self, output: str | Embedded, target: Path, proof: Proof | None = None
    ) -> Download:
        """Puts one output under `target`, which exists only when it is whole and proved.

        Raises `BrokenOutput` for a host that is not allowed, and for a body that stays without
        proof; `DiskFull`; `OutputUnreachable` when its server does not answer, breaks off or is too
        slow. No error shows a URL's query.
        """
        part, proof = target.with_name(f"{target.name}.part"), proof or _Anything()
        if isinstance(output, Embedded) or output[:5].lower() == "data:":
            with disk_full_told(part):
                download = await asyncio.to_thread(self._decoded, output, part, proof)
        else:
            address = self._hosts.allowed(output)
            async with self._turns:
                with disk_full_told(part):
                    download = await self._fetched(address, part, proof)
        await asyncio.to_thread(part.replace, target)
        return download

    def _decoded(self, uri: str | Embedded, part: Path, proof: Proof) -> Download:
        try:
            found = decode(uri, part, self._most_bytes)
            proof.begins(found.head)
            return Download(found.sha256, found.size, proof.whole(part))
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    async def _fetched(self, address: Address, part: Path, proof: Proof) -> Download:
        began, failed, proofs = self._clock(), 0, 0
        with Incoming(address.shown, part, self._most_bytes) as incoming:
            while True:
                before = incoming.size
                try:
                    await self._stream(address, incoming, proof, began)
                    proofs += 1
                    info = await asyncio.to_thread(_judge, proof.whole, part)
                    return Download(incoming.sha256, incoming.size, info)
                except (RefusedOutput, _TooSlow, DiskFull):
                    raise
                except BrokenOutput as broken:
                    error = broken
                # A server that breaks off again and again brings a large file all the same.
                failed = 1 if incoming.size >= before + _CHUNK else failed + 1
                if failed >= _TRIES or proofs >= _PROOFS:
                    raise error
                if isinstance(error, SpoiltOutput):
                    await asyncio.to_thread(incoming.start_over)
                await self._sleep(backoff(failed - 1))

    async def _stream(
        self, address: Address, incoming: Incoming, proof: Proof, began: float
    ) -> None:
        # Imported late: a command that fetches nothing need not load an HTTP library more.
        from aiohttp import ClientError

        try:
            async with await self._asked(address, incoming.wanted()) as answer:
                await self._read(answer, address.shown, incoming, proof, began)
        except (ClientError, TimeoutError, ConnectionError) as error:
            raise _away(address.shown, error, incoming) from None

    async def _asked(self, address: Address, wanted: dict[str, str]) -> "ClientResponse":
        """The beginning of the answer, from wherever redirects lead."""
        from comfyline.runcomfy.pool import Pool

        self._opened = self._opened or Pool()
        for _ in range(_MOST_HOPS + 1):
            answer = await self._opened.get(address, wanted)
            location = answer.headers.get("Location", "")
            if answer.status not in _MOVED or not location:
                return answer
            answer.close()
            address = self._hosts.redirected(address, location)
        raise RefusedOutput(f"{address.shown} is one of more than {_MOST_HOPS} redirects")

    async def _read(
        self, answer: "ClientResponse", shown: str, incoming: Incoming, proof: Proof, began: float
    ) -> None:
        asked_for_rest = "Range" in answer.request_info.headers
        _check_status(shown, answer.status)
        await asyncio.to_thread(
            incoming.begin, answer.status, answer.headers, asked_for_rest=asked_for_rest
        )
        judged, received = len(incoming.head) >= HEAD_BYTES, incoming.size
        async with Behind(incoming.take) as behind:
            async for piece in answer.content.iter_chunked(_CHUNK):
                await behind.take(piece)
                if not judged:
                    # Not waited for: what a broken connection leaves unread is lost.
                    await behind.hand_over()
                    if judged := len(incoming.head) >= HEAD_BYTES:
                        _judge(proof.begins, incoming.head)
                received += len(piece)
                self._keep_up(shown, received, self._clock() - began)
        await asyncio.to_thread(incoming.finish)
        if not judged:
            _judge(proof.begins, incoming.head)

    @staticmethod
    def _keep_up(shown: str, received: int, seconds: float) -> None:
        if seconds > _GRACE + received / _SLOWEST:
            raise _TooSlow(
                f"{shown} comes too slowly: {received} bytes in {seconds:.0f} s",
                hint=_later(),
            )


def _judge(prove: Callable[[T], R], of: T) -> R:
    """What is no output is not gone on with, but fetched again from its beginning."""
    try:
        return prove(of)
    except BrokenOutput as broken:
        raise SpoiltOutput(broken.message, hint=broken.hint) from None


def _check_status(shown: str, status: int) -> None:
    if status in _HERE:
        return
    if status == _NO_SUCH_RANGE:
        raise SpoiltOutput(f"{shown} has become another file")
    passes = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS
    raise (BrokenOutput if passes else RefusedOutput)(f"{shown} answers HTTP {status}")


def _away(shown: str, error: Exception, incoming: Incoming) -> OutputUnreachable:
    so_far = f" after {incoming.progress}" if incoming.has_begun else ""
    return OutputUnreachable(f"{shown} cannot be fetched: {_words(error)}{so_far}", hint=_later())


def _later() -> str:
    again = f"run again or {command('reconcile')}, which costs nothing"
    return f"It was paid for and stays at RunComfy for 7 days: {again}."


def _words(error: Exception) -> str:
    from aiohttp import ClientHttpProxyError, ClientResponseError

    match error:
        case ClientHttpProxyError():
            return f"the proxy answers HTTP {error.status}"
        case ClientResponseError():
            return "what answers does not speak HTTP"
    return what_broke(error)
