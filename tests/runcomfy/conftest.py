"""A server that answers from a script and remembers who asked, and a time that only sleep moves."""

import asyncio
import http.server
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import pytest

from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.retry import RetryBudget

TOKEN = "rc_the-token-that-nobody-may-see"


class FakeTime:
    """Monotonic seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: Message
    body: bytes
    port: int


@dataclass
class Script:
    """Answers in order, the last one for ever; `body` of an answer may be JSON or bytes."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def say(self, body: Any = b"", status: int = 200, **headers: str) -> "Script":
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, raw))
        return self

    def take(self, call: Call) -> tuple[int, dict[str, str], bytes]:
        self.calls.append(call)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def _handler(script: Script) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body go out as one packet, and at once.
        wbufsize = -1
        disable_nagle_algorithm = True

        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            call = Call(self.command, self.path, self.headers, sent, self.client_address[1])
            status, headers, body = script.take(call)
            self.send_response(status)
            usual = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for name, value in (usual | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            # A promise of more bytes than were sent is broken at once.
            self.close_connection |= headers.get("Content-Length", str(len(body))) != str(len(body))

        do_GET = do_POST = answer  # noqa: N815  # the names that http.server calls

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def serving() -> Iterator[Script]:
    """The server of a script, for as long as the block lasts."""
    script = Script()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def script() -> Iterator[Script]:
    with serving() as script:
        yield script


@pytest.fixture
def elsewhere() -> Iterator[Script]:
    with serving() as script:
        yield script


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[Peer], Awaitable[str]]]:
    """Starts servers that do with each connection what the test says, byte by byte."""
    async with AsyncExitStack() as stack:

        async def listen(peer: Peer) -> str:
            async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    await peer(reader, writer)
                except (ConnectionError, asyncio.IncompleteReadError):
                    pass
                finally:
                    writer.close()

            listener = socket.create_server(("127.0.0.1", 0))
            # Small buffers: what is not read soon does not look as if it had been.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            server = await asyncio.start_server(meet, sock=listener)
            await stack.enter_async_context(server)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield listen


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a crash does: with a reset, and whatever was not read is lost."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def connect(time: FakeTime) -> AsyncIterator[Callable[..., Any]]:
    """Opens clients whose patience of 60 s passes in no time."""
    async with AsyncExitStack() as stack:

        async def connect(
            url: str, token: str = TOKEN, *, patience: float = 60, balance_url: str | None = None
        ) -> RuncomfyClient:
            budget = RetryBudget(patience, time, time.sleep)
            client = RuncomfyClient(url, token, budget, balance_url)
            return await stack.enter_async_context(client)

        yield connect
