"""The calls about a request: repeated while RunComfy is away, and no longer."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import (
    BrokenAnswer,
    ComfylineError,
    InputInvalid,
    NotKnownNow,
    Refused,
    TryLater,
    Unreachable,
)
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import No
from tests.conftest import Sandbox, free_port
from tests.runcomfy.conftest import FakeTime, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]


@pytest.fixture
async def client(connect: Connect, script: Script) -> RuncomfyClient:
    return await connect(script.url)


async def test_a_status_survives_what_passes(
    connect: Connect, sandbox: Sandbox, files: str, time: FakeTime
):
    client = await connect(sandbox.url, "sandbox-token")
    request_id = sandbox.submit("an office", f"{files}/cat.jpg")
    for fault in (
        {"kind": "status", "code": 500},
        {"kind": "status", "code": 429, "headers": {"Retry-After": "9"}},
        {"kind": "html"},
        {"kind": "drop"},
    ):
        sandbox.order(on="status", **fault)
    assert (await client.status(request_id)).state in set(JobState)
    assert len(time.slept) == 4
    assert 9 <= time.slept[1] < 10


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, b"<h1>One moment</h1>", Unreachable),
        (200, b'{"status": "comp', BrokenAnswer),
        (200, b"[" * 10**5, BrokenAnswer),
        (200, {"status": 7}, BrokenAnswer),
        (404, b"<h1>Not found</h1>", Unreachable),
        (400, b"<Error>Invalid bucket</Error>", Unreachable),
        (429, b"", TryLater),
    ],
)
async def test_what_does_not_pass_ends_with_the_patience(
    client: RuncomfyClient,
    script: Script,
    time: FakeTime,
    status: int,
    body: Any,
    kind: type[ComfylineError],
):
    script.say(body, status)
    with pytest.raises(kind) as raised:
        await client.status("r")
    assert raised.value.request_id == "r"
    assert time.now == pytest.approx(60)
    assert len(script.calls) == len(time.slept) + 1


async def test_nobody_there_ends_with_the_patience(connect: Connect, time: FakeTime):
    client = await connect(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="the connection was refused"):
        await client.status("r")
    assert time.now == pytest.approx(60)


async def test_a_refusal_ends_an_outage(client: RuncomfyClient, script: Script, time: FakeTime):
    script.say(b"", 500).say({"detail": "no"}, 422)
    with pytest.raises(Refused):
        await client.status("r")
    time.now += 1000
    script.answers.clear()
    script.say(b"", 500).say({"status": "in_queue"})
    assert (await client.status("r")).state is JobState.IN_QUEUE


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error_code": 404001, "error_message": "unknown or expired"}),
        (404, {"detail": "unknown"}),
        (410, {"message": "gone"}),
        (200, {"error_code": 404001}),
        (400, {"error_code": "404001"}),
    ],
)
async def test_a_request_that_runcomfy_does_not_know_is_no_end(
    client: RuncomfyClient, script: Script, tmp_path: Path, status: int, body: Any
):
    script.say(body, status).say(body, status).say(body, status).say(body, status)
    for call in (client.status("r"), client.charge("r"), client.cancel("r")):
        with pytest.raises(NotKnownNow) as raised:
            await call
        assert raised.value.request_id == "r"
    assert len(script.calls) == 3
    script.say({"request_id": "r", "status": "completed", "output": {}})
    assert (await client.result("r", tmp_path / "r.json")).word == "completed"


async def test_a_request_id_that_none_can_have_is_not_asked_about(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    for name in ("", "../models?x", "..", "a/b", "a b", "x" * 129, "ä", "a\n"):
        for call in (client.status(name), client.result(name, tmp_path / "r"), client.cancel(name)):
            with pytest.raises(InputInvalid):
                await call
    assert script.calls == []


async def test_a_model_id_cannot_lead_to_another_call(client: RuncomfyClient, script: Script):
    for name in ("", "../requests/r/cancel", "a//b", "a/../b", "a/.", "/a"):
        with pytest.raises(InputInvalid):
            await client.catalogue_entry(name)
        assert isinstance(await client.submit(name, {}), No)
    assert script.calls == []
