"""How far the paid POST got, seen from where its bytes leave."""

from collections.abc import AsyncIterator
from typing import Any

import httpx

from comfyline.runcomfy.verdict import HowFar


class Leaving(httpx.AsyncByteStream):
    """The body of one POST, which notices how much of it was taken.

    Its last byte is held back until the network has taken all the others. As long as it was not
    handed over, the request cannot be whole at RunComfy, whatever ends it: a reset, a timeout or a
    cancellation, after which buffers might still be flushed.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._how_far = HowFar.NOT_CONNECTED

    @property
    def how_far(self) -> HowFar:
        """How far it got until now, or further: never less far than it really got."""
        return self._how_far

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields the body; asked for it only once the headers are out."""
        self._how_far = HowFar.HEADERS_SENT
        if len(self._body) > 1:
            yield self._body[:-1]
        self._how_far = HowFar.BODY_SENT
        yield self._body[-1:]

    async def trace(self, event: str, _info: dict[str, Any]) -> None:
        """What httpcore tells about the connection: it only makes the report finer.

        The names of its events are no promise, so nothing that decides about money rests on them.
        """
        if event.endswith("connect_tcp.complete"):
            self._how_far = max(self._how_far, HowFar.CONNECTED)
        elif self._how_far is HowFar.BODY_SENT and event.endswith("response_headers.complete"):
            # Not before: a proxy answers, too, until it lets the POST through.
            self._how_far = HowFar.ANSWER_BEGUN
