"""Over TLS: HTTP/2 for whatever may be asked again, a connection of its own for the paid POST."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest

from comfyline.errors import ComfylineError, Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Accepted
from tests.conftest import EDIT
from tests.runcomfy.conftest import TOKEN
from tests.runcomfy.tls import Answer, TlsServer, certificate

Connect = Callable[..., Awaitable[RuncomfyClient]]
Start = Callable[..., Awaitable[tuple[TlsServer, str]]]


def runcomfy(method: str, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
    if path.endswith("/cancel"):
        answer = {"status": "in_progress", "outcome": "not_cancellable"}
    elif method == "POST":
        answer = {"request_id": "r-1"}
    else:
        answer = {"status": "in_queue", "models": []}
    return 200, [("retry-after", "1")], json.dumps(answer).encode()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def start(pem: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with AsyncExitStack() as stack:

        async def start(answer: Answer = runcomfy, **more: list[str]) -> tuple[TlsServer, str]:
            server = TlsServer(answer, **more)
            server.gate.set()
            listening = await stack.enter_async_context(await server.start(pem))
            return server, f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

        yield start


async def test_questions_share_one_http2_connection_and_each_post_has_its_own(
    connect: Connect, start: Start
):
    server, url = await start()
    client = await connect(url)
    asked = [client.status(f"r-{number}") for number in range(20)]
    sent = [client.submit(EDIT, {"number": number}) for number in range(20)]
    # In turn, so that connections of both kinds are opened side by side.
    mixed = [call for pair in zip(asked, sent, strict=True) for call in pair]
    answers = await asyncio.gather(*mixed)
    assert await client.cancel("r-1") == "not_cancellable"
    assert answers[1::2] == [Accepted("r-1")] * 20
    posts = [one for one in server.seen if one.path.startswith("/v1/models/")]
    rest = [one for one in server.seen if one not in posts]
    assert {one.protocol for one in posts} == {"http/1.1"}
    assert len({one.connection for one in posts}) == 20
    assert {(one.protocol, one.method) for one in rest} == {("h2", "GET"), ("h2", "POST")}
    assert len({one.connection for one in rest}) == 1
    assert {one.authorization for one in server.seen} == {f"Bearer {TOKEN}"}


async def test_a_post_offers_no_http2_while_a_question_does(
    connect: Connect, start: Start, pem: Path, monkeypatch: pytest.MonkeyPatch
):
    class Unhurried(ssl.SSLContext):
        """Used in a thread of its own, as one of another library's is, until all have begun."""

        def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
            sleep(0.1)
            return super().wrap_bio(*args, **more)

    def create() -> ssl.SSLContext:
        context = Unhurried(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(pem)
        return context

    monkeypatch.setattr(httpx, "create_ssl_context", create)
    server, url = await start()
    client = await connect(url)
    await asyncio.gather(*(client.submit(EDIT, {}) for _ in range(3)), client.status("r-1"))
    assert {one.protocol for one in server.seen if one.method == "GET"} == {"h2"}
    assert {one.protocol for one in server.seen if one.method == "POST"} == {"http/1.1"}


async def test_a_dying_shared_connection_leaves_no_post_in_doubt(connect: Connect, start: Start):
    server, url = await start()
    client = await connect(url)
    await client.status("r-1")
    server.gate.clear()
    posts = [asyncio.create_task(client.submit(EDIT, {})) for _ in range(5)]
    async with server.changed:
        await server.changed.wait_for(lambda: server.waiting == 5)
    for writer in server.shared:
        writer.transport.abort()
    assert (await client.status("r-1")).state is JobState.IN_QUEUE
    server.gate.set()
    assert await asyncio.gather(*posts) == [Accepted("r-1")] * 5
    assert len(server.shared) == 2


async def test_a_server_without_http2_is_spoken_to_as_it_speaks(connect: Connect, start: Start):
    server, url = await start(offers=["http/1.1"])
    client = await connect(url)
    assert (await client.status("r-1")).state is JobState.IN_QUEUE
    assert await client.submit(EDIT, {}) == Accepted("r-1")
    assert {one.protocol for one in server.seen} == {"http/1.1"}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [("content-length", "3")]),
        (200, [("content-length", "x")]),
        (200, [("connection", "close"), ("bad name", "a\nb")]),
        (500, []),
        (700, []),
    ],
)
async def test_what_http2_must_not_say_is_an_error_like_any_other(
    connect: Connect, start: Start, status: int, headers: list[tuple[str, str]]
):
    def wrong(_method: str, _path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        return status, headers, b"[not what was promised]"

    server, url = await start(wrong)
    client = await connect(url, patience=0)
    with pytest.raises(ComfylineError) as raised:
        await client.status("r-1")
    assert isinstance(raised.value, Unreachable)
    assert [one.protocol for one in server.seen] == ["h2"]


async def test_a_certificate_that_nobody_knows_is_not_spoken_to(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
):
    server, url = await start()
    monkeypatch.delenv("SSL_CERT_FILE")
    client = await connect(url, patience=0)
    with pytest.raises(Unreachable):
        await client.status("r-1")
    assert not (await client.submit(EDIT, {})).may_be_charged
    assert server.seen == []


async def test_no_token_and_no_query_is_logged_even_when_all_is(
    connect: Connect, start: Start, caplog: pytest.LogCaptureFixture
):
    def signed(method: str, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        status, headers, body = runcomfy(method, path)
        return status, [*headers, ("x-signed", "https://a.test/?signature=5ecret")], body

    server, url = await start(signed)
    for name in [None, *logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name)
    logging.getLogger("tests").debug("something is logged")
    client = await connect(url)
    await client.status("r-1")
    await client.models(include_schema=True)
    await client.submit(EDIT, {"image_url": "https://a.test/?signature=5ecret"})
    assert {one.protocol for one in server.seen} == {"h2", "http/1.1"}
    assert "something is logged" in caplog.text
    for secret in (TOKEN, "5ecret", "include_schema", "limit=", "Bearer"):
        assert secret not in caplog.text
