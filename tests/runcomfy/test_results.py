"""The result of a request: on disk before it is require_answer, and asked for once."""

import base64
import json
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.errors import Unreachable
from comfyline.job import JobState
from comfyline.runcomfy import results as results_module
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.download import Downloads
from comfyline.runcomfy.results import draft_path, extract_data_uris, output_urls
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


def in_sync_mode(content: bytes) -> dict[str, Any]:
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"status": "completed", "output": {"images": [uri]}}


@pytest.mark.parametrize("slash", ["/", "\\/", "\\u002f"])
async def test_a_medium_in_an_answer_is_saved_however_json_writes_it(
    client: RuncomfyClient, script: Script, tmp_path: Path, slash: str
):
    content = bytes(range(256)) * 100_00
    script.say(json.dumps(in_sync_mode(content)).replace("/", slash).encode())
    result = await client.result("r", tmp_path / "result.json")
    (url,) = output_urls(result.output)
    async with Downloads((), script.url) as downloads:
        await downloads.save(result.embedded.get(url, url), tmp_path / "1")
    assert (tmp_path / "1").read_bytes() == content


async def test_a_large_medium_in_an_answer_is_never_held_whole(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    size = 32 * 2**20
    script.say(json.dumps(in_sync_mode(bytes(size // 4 * 3))).encode())
    tracemalloc.start()
    try:
        result = await client.result("r", tmp_path / "result.json")
        (url,) = output_urls(result.output)
        async with Downloads((), script.url) as downloads:
            download = await downloads.save(result.embedded[url], tmp_path / "1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert download.bytes == size // 4 * 3
    assert peak < 10 * 2**20


async def test_a_result_whose_writer_was_killed_before_its_name_is_found_again(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({"status": "completed", "output": None})
    spool = tmp_path / "result.json"
    draft_path(spool).write_text('{"status": "completed", "output"')
    draft_path(spool).write_text(json.dumps({"status": "in_progress"}))
    draft_path(spool).write_text(json.dumps(DONE))
    assert (await client.result("r", spool)).output == DONE["output"]
    assert script.calls == []
    assert json.loads(spool.read_text()) == DONE


async def test_an_answer_without_outputs_never_replaces_one_that_has_them(
    client: RuncomfyClient, script: Script, tmp_path: Path
):
    script.say({"status": "completed", "output": {"images": []}})
    await client.result("r", tmp_path / "result.json")
    assert not any(os.scandir(tmp_path))


_TEXTS = st.text(max_size=8) | st.text(alphabet='data:,/\\"', max_size=20)
_URIS = st.builds("data:{},{}".format, _TEXTS, st.text(min_size=4, max_size=30))
_DOCUMENTS = st.recursive(
    st.none() | st.integers() | _TEXTS | _URIS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS | _URIS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(_DOCUMENTS, st.sets(st.sampled_from(["ascii", "slashes"])))
def test_what_stands_in_for_media_changes_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, document: Any, escapes: set[str]
):
    file = tmp_path_factory.getbasetemp() / "extract_data_uris.json"
    text = json.dumps(document, ensure_ascii="ascii" in escapes)
    text = text.replace("/", "\\/") if "slashes" in escapes else text
    file.write_bytes(text.encode("utf-8", "replace"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results_module, "SHORTEST_KEPT_APART", 5)
        kept, places = extract_data_uris(file)
    whole = file.read_bytes()

    def put_back(value: Any) -> Any:
        match value:
            case str() if value in places:
                start, end = places[value]
                return json.loads(b'"' + whole[start:end] + b'"')
            case [*parts]:
                return [put_back(part) for part in parts]
            case dict():
                return {put_back(name): put_back(part) for name, part in value.items()}
            case _:
                return value

    assert put_back(json.loads(kept)) == json.loads(whole)
