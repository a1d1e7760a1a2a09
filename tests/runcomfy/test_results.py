"""The result of a request: on disk before it is understood, and asked for once."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from comfyline.errors import Unreachable
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from tests.conftest import Sandbox
from tests.runcomfy.conftest import TOKEN, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]
DONE = {"request_id": "r", "status": "completed", "output": {"image": "https://a.test/1.png"}}


@pytest.fixture
async def client(connect: Connect, script: Script) -> RuncomfyClient:
    return await connect(script.url)


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


async def test_an_answer_is_kept_as_it_came_but_for_the_token(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    deep: object = "https://a.test/1.png"
    for _ in range(400):
        deep = [deep]
    script.say({"status": "completed", "note": TOKEN, "output": deep, "cost": 0.5})
    result = await client.result("r", tmp_path / "result.json")
    assert result.cost_usd == 0.5
    assert (tmp_path / "result.json").read_bytes().count(b"[") == 400
    assert TOKEN not in (tmp_path / "result.json").read_text()
