"""Every request that the client sends is one of the written API."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import ComfylineError
from comfyline.runcomfy.client import RuncomfyClient
from tests.contract.conftest import TOKEN
from tests.contract.description import written
from tests.runcomfy.conftest import Call, Script

STEADY = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
REQUEST_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)
PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}"
MODEL_IDS = st.from_regex(f"{PART}(/{PART}){{0,3}}", fullmatch=True)
# A lone surrogate is no character, and no text of a person's has one.
TEXT = st.text(st.characters(codec="utf-8"))
INPUTS = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ).filter(lambda value: value not in (float("inf"), float("-inf"))),
    max_size=4,
)

Connected = tuple[RuncomfyClient, Script]


@pytest.fixture(scope="module")
def connected(client: RuncomfyClient, script: Script) -> Connected:
    script.say({"error_code": 400001})
    return client, script


def checked(sent: Call) -> str:
    """The name of the call that a request makes; it keeps to all that is written of it."""
    mistakes = written().mistakes_of_request(sent.method, sent.path, sent.headers, sent.body)
    assert not mistakes, (sent.method, sent.path, mistakes)
    assert sent.headers.get_all("Authorization") == [f"Bearer {TOKEN}"]
    rest = [value for name, value in sent.headers.items() if name.lower() != "authorization"]
    assert TOKEN not in f"{sent.path}{sent.body!r}{rest}"
    operation = written().find(sent.method, urlsplit(sent.path).path)
    assert operation is not None
    return operation.name


async def sent_by(script: Script, call: Awaitable[Any]) -> Call:
    """The one request of a call, whatever became of it."""
    script.calls.clear()
    with suppress(ComfylineError):
        await call
    assert len(script.calls) == 1
    return script.calls[0]


@STEADY
@given(model_id=MODEL_IDS, inputs=INPUTS)
async def test_a_submission_carries_the_inputs_as_they_are(
    connected: Connected, model_id: str, inputs: Mapping[str, Any]
):
    client, script = connected
    sent = await sent_by(script, client.submit(model_id, inputs))
    assert checked(sent) == "submit"
    assert sent.path == f"/v1/models/{model_id}"
    assert json.loads(sent.body) == inputs


@STEADY
@given(request_id=REQUEST_IDS)
@pytest.mark.parametrize("name", ["status", "result", "cancel"])
async def test_a_call_about_a_request_names_it(
    connected: Connected, tmp_path_factory: pytest.TempPathFactory, name: str, request_id: str
):
    client, script = connected
    cache: Path = tmp_path_factory.getbasetemp() / "never-written.json"
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "status": lambda: client.status(request_id),
        "result": lambda: client.result(request_id, cache),
        "cancel": lambda: client.cancel(request_id),
    }
    sent = await sent_by(script, calls[name]())
    assert checked(sent) == name
    assert urlsplit(sent.path).path == f"/v1/requests/{request_id}/{name}"


@STEADY
@given(model_id=MODEL_IDS)
async def test_an_entry_of_the_catalogue_is_asked_for_by_its_id(
    connected: Connected, model_id: str
):
    client, script = connected
    sent = await sent_by(script, client.catalogue_entry(model_id))
    assert checked(sent) == "catalogueEntry"
    assert sent.path == f"/v1/models/{model_id}"


@STEADY
@given(
    words=st.fixed_dictionaries({}, optional=dict.fromkeys(("search", "category"), TEXT)),
)
async def test_the_catalogue_is_asked_for_page_by_page(connected: Connected, words: dict[str, str]):
    client, script = connected
    sent = await sent_by(script, client.models(**words))
    assert checked(sent) == "catalogue"
    query = dict(parse_qsl(urlsplit(sent.path).query))
    assert {name: query.get(name) for name in words} == {k: v or None for k, v in words.items()}
    assert {"limit", "offset"} <= set(query)


async def test_the_balance_is_asked_for_where_the_profile_says(connected: Connected):
    client, script = connected
    assert checked(await sent_by(script, client.balance())) == "balance"
