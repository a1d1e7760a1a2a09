"""The whole catalogue, however a server cuts its pages."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from comfyline.errors import BrokenAnswer, Refused
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.wire import Page
from tests.conftest import EDIT, Sandbox
from tests.runcomfy.conftest import Call, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]


def page(names: list[str], total: Any = None) -> dict[str, Any]:
    return {"models": [{"model_id": name, "kind": "model"} for name in names], "total": total}


def serve(script: Script, names: list[str], longest: int = 100, total: int | None = None) -> None:
    """Answers like a server with these models, in pages no longer than `longest`."""

    def take(call: Call) -> tuple[int, dict[str, str], bytes]:
        script.calls.append(call)
        offset = int(parse_qs(urlsplit(call.path).query)["offset"][0])
        return 200, {}, json.dumps(page(names[offset : offset + longest], total)).encode()

    script.take = take  # type: ignore[method-assign]


def named(entries: list[Mapping[str, Any]]) -> list[str]:
    return [entry["model_id"] for entry in entries]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize(("count", "longest"), [(0, 100), (7, 100), (7, 3), (100, 100), (250, 40)])
async def test_every_model_is_listed_once_whatever_a_page_holds(
    connect: Connect, script: Script, count: int, longest: int, *, said: bool
):
    names = [f"m/{index}" for index in range(count)]
    serve(script, names, longest, count if said else None)
    assert named(await (await connect(script.url)).models()) == names
    assert len(script.calls) <= count // longest + 2
    if said and count == 7 and longest == 100:
        assert len(script.calls) == 1


async def test_a_server_that_ignores_the_offset_is_not_asked_for_ever(
    connect: Connect, script: Script
):
    script.say(page([f"m/{index}" for index in range(100)]))
    assert len(await (await connect(script.url)).models()) == 100
    assert len(script.calls) == 2


async def test_a_page_is_read_for_its_named_entries_and_the_first_of_each_name():
    models = [7, None, {}, {"model_id": ""}, {"model_id": 3}, {"model_id": "a", "x": 1}]
    read = Page.read({"models": [*models, {"model_id": "a", "x": 2}], "total": "many"})
    assert (read.entries, len(read.models)) == ({"a": {"model_id": "a", "x": 1}}, 7)
    assert read.total is None
    for answer in ({}, {"models": None}, {"models": {}}):
        with pytest.raises(BrokenAnswer):
            Page.read(answer)


async def test_the_questions_name_filter_and_page_and_survive_what_passes(
    connect: Connect, script: Script
):
    script.say(page([f"m/{index}" for index in range(100)])).say(b"", 503)
    script.say(page(["m/100"], 101))
    client = await connect(script.url)
    found = await client.models("a cat & dog", "image")
    assert len(found) == 101
    queries = [parse_qs(urlsplit(call.path).query) for call in script.calls]
    assert queries[0] == {
        "search": ["a cat & dog"],
        "category": ["image"],
        "limit": ["100"],
        "offset": ["0"],
    }
    assert [query["offset"] for query in queries] == [["0"], ["100"], ["100"]]


async def test_the_catalogue_of_a_server_is_listed_and_an_unknown_model_refused(
    connect: Connect, sandbox: Sandbox
):
    client = await connect(sandbox.url, "sandbox-token")
    assert named(await client.models("no such model")) == []
    [entry] = [one for one in await client.models() if one["model_id"] == EDIT]
    assert entry["categories"]
    assert (await client.catalogue_entry(EDIT))["model_id"] == EDIT
    with pytest.raises(Refused) as raised:
        await client.catalogue_entry("no/such/model")
    assert raised.value.request_id is None
    assert not raised.value.may_be_charged
