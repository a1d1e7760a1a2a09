"""How far the paid POST got, against servers that break off where it matters."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from comfyline.runcomfy import client as client_module
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.transport import TrackedBody
from comfyline.runcomfy.verdict import NotSent, SendProgress, Unknown
from tests.conftest import EDIT, free_port
from tests.runcomfy.conftest import Peer, reset

Connect = Callable[..., Awaitable[RuncomfyClient]]
Listen = Callable[[Peer], Awaitable[str]]
# Larger than what the buffers of both ends of a connection take.
BIG = {"prompt": "x" * 12 * 1024 * 1024}
SMALL = {"prompt": "an office"}


async def headers(reader: asyncio.StreamReader) -> int:
    """Reads a request's headers; the length of its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    return int(head.split("content-length: ")[1].split("\r\n")[0])


async def whole(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(await headers(reader))


async def test_nobody_there_is_not_connected(connect: Connect):
    verdict = await (await connect(f"http://127.0.0.1:{free_port()}")).submit(EDIT, SMALL)
    assert isinstance(verdict, NotSent)
    assert verdict.how_far is SendProgress.NOT_CONNECTED
    assert not verdict.error.may_be_charged


async def test_a_connection_that_ends_before_tls_is_connected_and_no_more(
    connect: Connect, listen: Listen
):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reset(writer)

    url = (await listen(hang_up)).replace("http:", "https:")
    verdict = await (await connect(url)).submit(EDIT, SMALL)
    assert isinstance(verdict, NotSent)
    assert verdict.how_far is SendProgress.CONNECTED


async def test_a_reset_in_the_headers_or_the_body_is_not_sent(connect: Connect, listen: Listen):
    async def in_the_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        reset(writer)

    async def in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await headers(reader)
        await reader.readexactly(1024 * 1024)
        reset(writer)

    for peer in (in_the_headers, in_the_body):
        verdict = await (await connect(await listen(peer))).submit(EDIT, BIG)
        assert isinstance(verdict, NotSent)
        assert verdict.how_far is SendProgress.HEADERS_SENT


async def test_a_body_that_is_never_taken_in_is_not_sent(
    connect: Connect, listen: Listen, monkeypatch: pytest.MonkeyPatch
):
    over, sizes = asyncio.Event(), asyncio.Queue[tuple[int, int]]()

    async def stall(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        length = await headers(reader)
        await over.wait()
        # What still lies in the buffers is read after the client has given up.
        got = 0
        try:
            while chunk := await reader.read(1024 * 1024):
                got += len(chunk)
        finally:
            sizes.put_nowait((got, length))

    monkeypatch.setattr(client_module, "SUBMIT_SECONDS", 0.5)
    verdict = await (await connect(await listen(stall))).submit(EDIT, BIG)
    assert verdict == NotSent("no answer came in time", SendProgress.HEADERS_SENT)
    over.set()
    got, length = await sizes.get()
    assert got < length


@pytest.mark.parametrize("answer", [b"502 Bad Gateway", b"302 Found", b"408 Too Slow"])
async def test_an_answer_of_somebody_who_did_not_read_the_body_is_not_sent(
    connect: Connect, listen: Listen, answer: bytes
):
    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await headers(reader)
        writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    verdict = await (await connect(await listen(turn_away))).submit(EDIT, BIG)
    assert isinstance(verdict, NotSent)
    assert verdict.how_far is SendProgress.HEADERS_SENT


async def test_a_reset_after_the_body_is_unknown(connect: Connect, listen: Listen):
    bodies = []

    async def take_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(json.loads(await whole(reader)))
        reset(writer)

    client = await connect(await listen(take_and_die))
    strange = {"prompt": "naïve · 絵"}
    for inputs in (strange, BIG, {}):
        verdict = await client.submit(EDIT, inputs)
        assert isinstance(verdict, Unknown)
        assert verdict.how_far is SendProgress.BODY_SENT
    assert bodies == [strange, BIG, {}]


async def test_an_answer_that_breaks_off_is_unknown(connect: Connect, listen: Listen):
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole(reader)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{"request_id": "r')
        await writer.drain()

    verdict = await (await connect(await listen(begin))).submit(EDIT, SMALL)
    assert isinstance(verdict, Unknown)
    assert verdict.how_far is SendProgress.ANSWER_BEGUN


async def test_the_last_byte_is_held_back_until_the_others_were_taken():
    body = TrackedBody(b"{}")
    assert body.progress is SendProgress.NOT_CONNECTED
    await body.trace("connection.connect_tcp.complete", {})
    # So answers a proxy, before it lets the POST through.
    await body.trace("http11.receive_response_headers.complete", {})
    assert body.progress is SendProgress.CONNECTED
    pieces: AsyncIterator[bytes] = aiter(body)
    assert await anext(pieces) == b"{"
    assert body.progress is SendProgress.HEADERS_SENT
    assert await anext(pieces) == b"}"
    assert body.progress is SendProgress.BODY_SENT
