"""The result of a request: on disk before anything is done with it, and asked for once."""

import gzip
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import BrokenAnswer, DiskFull, Unreachable
from comfyline.files import require_space
from comfyline.job import JobState
from comfyline.runcomfy import client as client_module
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.results import output_urls
from comfyline.runcomfy.verdict import No, Unknown
from tests.conftest import Sandbox
from tests.runcomfy.conftest import TOKEN, Script
from tests.small_disk import small_disk

Connect = Callable[..., Awaitable[RuncomfyClient]]
DONE = {"request_id": "r", "status": "completed", "output": {"image": "https://a.test/1.png"}}


@pytest.fixture
async def client(connect: Connect, script: Script) -> RuncomfyClient:
    return await connect(script.url)


async def test_a_result_is_written_down_and_not_asked_for_twice(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({**DONE, "cost": 0.14}).say({}, 500)
    cache = tmp_path / "new" / "result.json"
    first = await client.result("r", cache)
    assert (first.state, first.cost_usd) == (JobState.COMPLETED, 0.14)
    assert await client.result("r", cache) == first
    assert [call.path for call in script.calls] == ["/v1/requests/r/result?include_cost=true"]
    assert os.listdir(cache.parent) == ["result.json"]  # noqa: PTH208  # one call, and no waiting


async def test_a_result_in_sync_mode_is_asked_for_only_where_there_is_room_and_survives(
    connect: Connect, sandbox: Sandbox, files: str, tmp_path: Path
):
    client = await connect(sandbox.url, "sandbox-token")
    request_id = sandbox.submit("an office", f"{files}/cat.jpg", sync_mode=True)
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "completed")
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFull, match=r"67\.1 MB needed, 2\.1 MB free") as raised:
            await client.result(request_id, disk / "result.json")
        assert raised.value.request_id == request_id
        assert not any(disk.iterdir())
    # It is told once, and that was not used up.
    cache = tmp_path / "result.json"
    first = await client.result(request_id, cache)
    assert str(first.output).count("data:image/") == 1
    assert "data:" not in str(sandbox.result(request_id))
    assert await client.result(request_id, cache) == first


async def test_what_came_of_an_answer_that_did_not_fit_is_not_passed_for_one(
    client: RuncomfyClient, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_module, "RESULT_ROOM", 0)
    large = json.dumps({**DONE, "note": "x" * 3_000_000}).encode()
    script.say(large).say(gzip.compress(large), Content_Encoding="gzip").say(DONE)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFull, match=r"3\.0 MB needed"):
            await client.result("r", disk / "result.json")
        # It said how large it is, and was not read.
        assert not any(disk.iterdir())
        with pytest.raises(DiskFull, match=r"3\.0 MB needed"):
            await client.result("r", disk / "result.json")
        assert (await client.result("r", disk / "result.json")).output == DONE["output"]
    assert len(script.calls) == 3


def test_how_much_is_needed_and_how_much_is_there_is_said(tmp_path: Path):
    require_space(tmp_path / "not/made/yet", 1)
    with pytest.raises(DiskFull, match=r" is full: [\d.]+ MB needed, [\d.]+ MB free"):
        require_space(tmp_path / "not/made/yet", 2 * shutil.disk_usage(tmp_path).free)


async def test_a_result_that_is_not_there_yet_is_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({"status": "in_progress"}).say({"status": "completed", "output": {"images": []}})
    script.say(DONE)
    cache = tmp_path / "result.json"
    assert (await client.result("r", cache)).state is JobState.IN_PROGRESS
    assert (await client.result("r", cache)).output == {"images": []}
    assert not os.listdir(tmp_path)  # noqa: PTH208  # one call, and no waiting
    assert (await client.result("r", cache)).output == DONE["output"]


@pytest.mark.parametrize("word", [{"status": "ready"}, {}])
async def test_an_output_under_an_unknown_word_is_kept_for_a_person_and_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path, word: dict[str, str]
):
    once = {"output": {"image": "data:image/png;base64,AAAA"}}
    script.say({**word, **once}).say(DONE)
    cache = tmp_path / "result.json"
    if word:
        assert (await client.result("r", cache)).state is None
    else:
        with pytest.raises(Unreachable):
            await client.result("r", cache)
    kept = json.loads((tmp_path / "result.unread.json").read_text())
    assert kept["output"] == once["output"]
    assert (await client.result("r", cache)).state is JobState.COMPLETED


@pytest.mark.parametrize("content", [b"", b'{"status": "comp', b"[]", b"{}"])
async def test_a_written_result_that_cannot_be_read_is_asked_for_again(
    client: RuncomfyClient, script: Script, tmp_path: Path, content: bytes
):
    script.say(DONE)
    cache = tmp_path / "result.json"
    cache.write_bytes(content)
    assert (await client.result("r", cache)).output == DONE["output"]


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


async def test_only_a_result_may_be_larger_than_any_page(
    client: RuncomfyClient, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_module, "MOST_BYTES", 2**20)
    large = {**DONE, "cost": 0.25, "texts": "x" * 2**21}
    script.say(large).say(large)
    assert (await client.charge("r")).cost_usd == 0.25
    assert (await client.result("r", tmp_path / "result.json")).cost_usd == 0.25
    script.answers.clear()
    script.say(gzip.compress(b" " * 2**21), Content_Encoding="gzip")
    with pytest.raises(BrokenAnswer, match="larger than 1 MB"):
        await client.status("r")


async def test_a_submission_whose_answer_has_no_end_is_judged_by_its_status(
    client: RuncomfyClient, script: Script, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client_module, "MOST_BYTES", 100)
    script.say({"request_id": "r-1", "more": "x" * 200}).say({"detail": "x" * 200}, 401)
    assert isinstance(await client.submit("acme/edit", {}), Unknown)
    assert isinstance(await client.submit("acme/edit", {}), No)


@pytest.mark.parametrize("packed", ["gzip, gzip", "gzip,deflate", "br"])
async def test_what_is_packed_twice_or_as_nobody_asked_for_is_not_unpacked(
    connect: Connect, script: Script, packed: str
):
    script.say(gzip.compress(gzip.compress(b" " * 2**20)), Content_Encoding=packed)
    with pytest.raises(Unreachable, match="compressed and cannot be decompressed"):
        await (await connect(script.url, patience=1)).status("r-1")
    assert script.calls[0].headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (None, []),
        ("https://a.test/1", ["https://a.test/1"]),
        ({"image": "HTTPS://a.test/1"}, ["HTTPS://a.test/1"]),
        ({"images": ["https://a.test/1", "data:,x"]}, ["https://a.test/1", "data:,x"]),
        (
            {"video": {"url": "https://a.test/v", "seconds": 5}, "prompt": "an https:// in it"},
            ["https://a.test/v"],
        ),
        (
            {"b": [{"x": [["https://a.test/1"]]}, "https://a.test/2"], "a": "https://a.test/3"},
            ["https://a.test/1", "https://a.test/2", "https://a.test/3"],
        ),
    ],
)
def test_outputs_are_found_in_order_however_they_are_nested(output: Any, urls: list[str]):
    assert list(output_urls(output)) == urls
