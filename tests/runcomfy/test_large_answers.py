"""Answers of gigabytes, packed or not: each is cut off and told, and memory stays small."""

import asyncio
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import BrokenAnswer, Unreachable
from comfyline.runcomfy import client as client_module
from comfyline.runcomfy import results as results_module
from comfyline.runcomfy.verdict import No, Unknown
from tests.runcomfy.conftest import Peer, Script

Connect = Callable[..., Any]
MEBI = 2**20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"%x\r\n%b\r\n" % (MEBI, b" " * MEBI))
        await writer.drain()


async def test_an_answer_without_end_is_cut_off(
    connect: Connect, listen: Callable[[Peer], Any]
) -> None:
    client = await connect(await listen(without_end))
    tracemalloc.start()
    try:
        with pytest.raises(BrokenAnswer, match="larger than 16 MB"):
            await client.status("r-1")
        assert tracemalloc.get_traced_memory()[1] < 80 * MEBI
    finally:
        tracemalloc.stop()


async def test_a_packed_answer_is_no_larger_than_an_unpacked_one(
    connect: Connect, script: Script
) -> None:
    script.say(gzip.compress(b" " * (40 * MEBI)), Content_Encoding="gzip")
    client = await connect(script.url)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenAnswer, match="larger than 16 MB"):
            await client.status("r-1")
        assert tracemalloc.get_traced_memory()[1] < 100 * MEBI
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", ["gzip, gzip", "gzip,deflate", "br", "zstd"])
async def test_what_is_packed_twice_or_as_nobody_asked_for_is_not_unpacked(
    connect: Connect, script: Script, packed: str
) -> None:
    script.say(gzip.compress(gzip.compress(b" " * MEBI)), Content_Encoding=packed)

    with pytest.raises(Unreachable, match="compressed and cannot be decompressed"):
        await (await connect(script.url, patience=1)).status("r-1")

    assert script.calls[0].headers["Accept-Encoding"] == "gzip, deflate"


async def test_a_submission_whose_answer_has_no_end_is_judged_by_its_status(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 100)
    script.say({"request_id": "r-1", "more": "x" * 200}).say({"detail": "x" * 200}, 401)
    client = await connect(script.url)

    assert isinstance(await client.submit("acme/edit", {}), Unknown)
    assert isinstance(await client.submit("acme/edit", {}), No)


async def test_a_cost_is_told_by_an_answer_with_all_its_pictures(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 10_000)
    picture = "data:image/png;base64," + "A" * 100_000
    script.say({"status": "completed", "output": {"images": [picture]}, "cost": 0.25})

    assert (await (await connect(script.url)).charge("r-1")).cost_usd == 0.25


async def test_a_result_of_more_text_than_can_be_read_is_kept_for_a_person(
    connect: Connect, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "MOST_TEXT", 10_000)
    answer = {"status": "completed", "output": {"texts": ["x" * 20_000]}}
    script.say(answer).say({"status": "completed", "output": {}})

    with pytest.raises(BrokenAnswer, match="of text") as told:
        await (await connect(script.url)).result("r-1", tmp_path / "result.json")

    assert len(script.calls) == 1
    kept = tmp_path / "result.unread.json"
    assert str(kept) in (told.value.hint or "")
    assert json.loads(kept.read_bytes()) == answer
    assert os.listdir(tmp_path) == [kept.name]  # noqa: PTH208  # one call, and no waiting
