"""The calls about a request: repeated while RunComfy is away, and no longer."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import (
    ComfylineError,
    Expired,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from tests.conftest import EDIT, Sandbox, free_port
from tests.runcomfy.conftest import FakeTime, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]
DONE = {"request_id": "r", "status": "completed", "output": {"image": "https://a.test/1.png"}}


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
        (500, {"error_code": 5}, Unreachable),
        (503, b"<h1>One moment</h1>", Unreachable),
        (200, b"<h1>One moment</h1>", Unreachable),
        (200, b'{"status": "comp', Unreachable),
        (200, ["completed"], Unreachable),
        (200, {}, Unreachable),
        (302, b"", Unreachable),
        (408, {"error_code": 5}, Unreachable),
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
    with pytest.raises(Unreachable, match="ConnectError"):
        await client.status("r")
    assert time.now == pytest.approx(60)


async def test_a_wait_beyond_the_patience_is_not_begun(
    client: RuncomfyClient, script: Script, time: FakeTime
):
    script.say(b"", 429, Retry_After="3600")
    with pytest.raises(TryLater):
        await client.status("r")
    assert time.slept == []


async def test_retry_after_nought_is_no_tight_loop(client: RuncomfyClient, script: Script):
    script.say(b"", 429, Retry_After="0")
    with pytest.raises(TryLater):
        await client.status("r")
    assert len(script.calls) < 60 / 0.1


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
async def test_a_request_that_runcomfy_does_not_know_is_expired(
    client: RuncomfyClient, script: Script, status: int, body: Any, tmp_path: Path
):
    script.say(body, status)
    for call in (client.status("r"), client.result("r", tmp_path / "r.json"), client.cancel("r")):
        with pytest.raises(Expired) as raised:
            await call
        assert raised.value.request_id == "r"
    assert len(script.calls) == 3


async def test_somebody_elses_404_does_not_lose_a_request(client: RuncomfyClient, script: Script):
    script.say(b"<h1>Not found</h1>", 404)
    with pytest.raises(Unreachable, match="404"):
        await client.status("r")


async def test_a_wrong_token_is_said_at_once(client: RuncomfyClient, script: Script):
    script.say({"error_code": 400004, "error_message": "no"}, 401)
    with pytest.raises(TokenRejected):
        await client.status("r")
    assert len(script.calls) == 1


async def test_a_failed_request_with_an_error_code_is_a_status_and_no_refusal(
    client: RuncomfyClient, script: Script
):
    script.say({"status": "failed", "error_code": 500001, "error_message": "too dark"})
    status = await client.status("r")
    assert (status.state, status.error) == (JobState.FAILED, "too dark")


async def test_a_request_id_cannot_lead_to_another_call(client: RuncomfyClient, script: Script):
    script.say({"status": "in_queue"})
    await client.status("../models?x")
    assert script.calls[0].path == "/v1/requests/..%2Fmodels%3Fx/status"


async def test_a_redirect_is_not_followed(
    connect: Connect, start_script: Callable[[], Script], tmp_path: Path
):
    api, elsewhere = start_script(), start_script()
    elsewhere.say(DONE)
    api.say(b"", 302, Location=f"{elsewhere.url}/")
    client = await connect(api.url)
    for call in (client.status("r"), client.result("r", tmp_path / "r.json"), client.cancel("r")):
        with pytest.raises(Unreachable, match="302"):
            await call
    assert elsewhere.calls == []


async def test_a_result_is_written_down_and_not_asked_for_twice(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({**DONE, "cost": 0.14}).say({}, 500)
    spool = tmp_path / "new" / "result.json"
    first = await client.result("r", spool)
    assert (first.status.state, first.cost_usd) == (JobState.COMPLETED, 0.14)
    assert await client.result("r", spool) == first
    assert [call.path for call in script.calls] == ["/v1/requests/r/result?include_cost=true"]
    assert [path.name for path in spool.parent.iterdir()] == ["result.json"]


async def test_a_result_in_sync_mode_survives_through_the_spool(
    connect: Connect, sandbox: Sandbox, files: str, tmp_path: Path
):
    client = await connect(sandbox.url, "sandbox-token")
    request_id = sandbox.submit("an office", f"{files}/cat.jpg", sync_mode=True)
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "completed")
    first = await client.result(request_id, tmp_path / "result.json")
    assert str(first.output).count("data:image/") == 1
    assert "data:" not in str(sandbox.result(request_id))
    assert await client.result(request_id, tmp_path / "result.json") == first


async def test_a_result_that_is_not_there_yet_is_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({"status": "in_progress"}).say({"status": "completed"}).say(DONE)
    spool = tmp_path / "result.json"
    assert (await client.result("r", spool)).status.state is JobState.IN_PROGRESS
    assert (await client.result("r", spool)).output is None
    assert (await client.result("r", spool)).output == DONE["output"]


@pytest.mark.parametrize("word", [{"status": "ready"}, {}])
async def test_an_output_under_an_unknown_word_is_kept_for_a_person_and_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path, word: dict[str, str]
):
    once = {"output": {"image": "data:image/png;base64,AAAA"}}
    script.say({**word, **once}).say(DONE)
    spool = tmp_path / "result.json"
    if word:
        assert (await client.result("r", spool)).status.state is None
    else:
        with pytest.raises(Unreachable):
            await client.result("r", spool)
    kept = json.loads((tmp_path / "result.unread.json").read_text())
    assert kept["output"] == once["output"]
    assert (await client.result("r", spool)).status.state is JobState.COMPLETED


@pytest.mark.parametrize("content", [b"", b'{"status": "comp', b"[]", b"{}"])
async def test_a_spool_that_cannot_be_read_is_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path, content: bytes
):
    script.say(DONE)
    spool = tmp_path / "result.json"
    spool.write_bytes(content)
    assert (await client.result("r", spool)).output == DONE["output"]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": "cancelled", "outcome": "cancelled"}, "cancelled"),
        ({"status": "in_progress", "outcome": "not_cancellable"}, "not_cancellable"),
        ({"status": "canceled", "outcome": "not_cancellable"}, "cancelled"),
        ({"outcome": "cancelled"}, "cancelled"),
        ({"outcome": None}, "unknown"),
    ],
)
async def test_cancel_says_honestly_what_became_of_it(
    client: RuncomfyClient, script: Script, answer: dict[str, Any], outcome: str
):
    script.say(b"", 500).say(answer)
    assert await client.cancel("r") == outcome
    assert [call.method for call in script.calls] == ["POST", "POST"]


async def test_a_catalogue_entry_is_read_and_an_unknown_model_refused(
    connect: Connect, sandbox: Sandbox
):
    client = await connect(sandbox.url, "sandbox-token")
    assert (await client.catalogue_entry(EDIT))["model_id"] == EDIT
    with pytest.raises(Refused) as raised:
        await client.catalogue_entry("no/such/model")
    assert raised.value.request_id is None
