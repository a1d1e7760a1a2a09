"""Whatever answers, with whatever bytes: a value or an error for a person, and no secret in it."""

import asyncio
import json
import re
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import ComfylineError
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Accepted, No, NotSent, SendProgress, SlowDown, Unknown
from comfyline.runcomfy.wire import RequestStatus
from tests.conftest import EDIT
from tests.runcomfy.conftest import TOKEN, Peer

# Made of parts, because a traceback quotes the lines of this file.
SECRET = "5e" + "cret" * 3
SIGNED = f"https://files.test/cat.jpg?X-Amz-Signature={SECRET}"
ESCAPED = '"' + "".join(f"\\u{ord(character):04x}" for character in TOKEN) + '"'
VERDICTS = Accepted | NotSent | SlowDown | No | Unknown
fuzzed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

WORDS = ["completed", "failed", "cancelled", "in_queue", "r-1"]
TEXTS = st.text(max_size=30) | st.sampled_from([TOKEN, SIGNED, f"no such: {TOKEN}", *WORDS])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "request_id, status, queue_position, output, cost, outcome, models, total, balance_usd, error, "
    "error_code, error_message, message, detail, model_id"
)
ANSWERS = st.dictionaries(
    st.sampled_from(FIELDS.split(", ")), JSON | st.integers(400_000, 600_000), max_size=6
)
BODIES = (
    st.binary(max_size=200)
    | (ANSWERS | JSON).map(lambda answer: json.dumps(answer).encode())
    | ANSWERS.map(lambda answer: json.dumps(answer).replace(json.dumps(TOKEN), ESCAPED).encode())
    | st.integers(1, 2000).map(lambda depth: b'{"detail":' * depth + b"1" + b"}" * depth)
    | st.integers(1, 2000).map(lambda depth: b'{"status": "x", "output":' + b"[" * depth)
)
STATUSES = st.integers(100, 999) | st.sampled_from([200, 302, 400, 404, 429, 503])
NAMES = st.sampled_from(
    ["Retry-After", "Location", "Content-Type", "Content-Encoding", "Set-Cookie", "X-A", "Trailer"]
)
VALUES = st.sampled_from(
    [
        "gzip",
        "br, deflate",
        "9",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        SIGNED,
        f"https://{TOKEN}.test/",
        "http://[::1",
        "text/html; charset=utf-99",
        "a=b; Expires=Wed, 99 Foo; Domain=.test",
    ]
) | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


class Oracle:
    """Says to every question what the test wants to hear."""

    def __init__(self) -> None:
        self.raw = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(self.raw)
        await writer.drain()


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
async def client(
    connect: Callable[..., Awaitable[RuncomfyClient]],
    listen: Callable[[Peer], Awaitable[str]],
    oracle: Oracle,
) -> RuncomfyClient:
    url = await listen(oracle)
    return await connect(url, patience=0, balance_url=f"{url}/balance")


async def outcome(call: Awaitable[Any], *, charged: bool) -> list[str]:
    """What a person would be told of a call."""
    try:
        answer = await call
    except ComfylineError as raised:
        error = raised
    else:
        return [repr(answer)] if isinstance(answer, RequestStatus | str) else []
    assert error.may_be_charged is charged
    return traceback.format_exception(error)


async def every_call(client: RuncomfyClient, directory: Path) -> None:
    """Makes each call, and looks at what comes of it."""
    verdict = await client.submit(EDIT, {"image_url": SIGNED})
    assert isinstance(verdict, VERDICTS)
    if isinstance(verdict, Accepted):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", verdict.request_id)
    if isinstance(verdict, Unknown):
        assert verdict.how_far >= SendProgress.BODY_SENT
    told = [repr(verdict)]
    if isinstance(verdict, No | NotSent | SlowDown):
        told.append(str(verdict.error))
        assert not verdict.error.may_be_charged
    cache = directory / "result.json"
    cache.unlink(missing_ok=True)
    for ask in (client.status, client.cancel, lambda name: client.result(name, cache)):
        told += await outcome(ask("r-1"), charged=True)
    for ask in (lambda: client.catalogue_entry(EDIT), client.models, client.balance):
        told += await outcome(ask(), charged=False)
    for text in told:
        assert TOKEN not in text
        assert SECRET not in text
        text.encode()
    assert not cache.exists() or TOKEN.encode() not in cache.read_bytes()


@fuzzed
@given(status=STATUSES, headers=HEADERS, body=BODIES)
async def test_any_answer_is_a_value_or_an_error_for_a_person(
    client: RuncomfyClient,
    oracle: Oracle,
    tmp_path: Path,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
):
    lines = [f"{name}: {value}" for name, value in [*headers, ("Connection", "close")]]
    head = "\r\n".join([f"HTTP/1.1 {status} so", *lines, "", ""])
    oracle.raw = head.encode("latin-1") + body
    await every_call(client, tmp_path)


@fuzzed
@given(raw=st.binary(max_size=300) | st.binary(max_size=99).map(lambda end: b"HTTP/1.1 200 " + end))
async def test_any_bytes_at_all_are_an_error_for_a_person(
    client: RuncomfyClient, oracle: Oracle, tmp_path: Path, raw: bytes
):
    oracle.raw = raw
    await every_call(client, tmp_path)
