"""The one POST that costs money: sent once, and honest about what is known of it."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from comfyline.errors import InputInvalid, Refused, TokenRejected
from comfyline.runcomfy import client as client_module
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Accepted, No, SendProgress, SlowDown, Unknown
from tests.conftest import EDIT, Sandbox
from tests.runcomfy.conftest import Script

Connect = Callable[..., Awaitable[RuncomfyClient]]


@pytest.fixture
def body(files: str) -> dict[str, Any]:
    return {"prompt": "an office", "image_urls": [f"{files}/cat.jpg"], "aspect_ratio": "21:9"}


@pytest.fixture
async def client(connect: Connect, sandbox: Sandbox) -> RuncomfyClient:
    return await connect(sandbox.url, "sandbox-token")


def accepted(sandbox: Sandbox) -> list[str]:
    return [row["request_id"] for row in sandbox.account()["requests"]]


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        ({"kind": "drop-before"}, 0),
        ({"kind": "drop-after"}, 1),
        ({"kind": "html"}, 1),
        ({"kind": "status", "code": 502, "accept": True}, 1),
        ({"kind": "status", "code": 503}, 0),
        ({"kind": "status", "code": 408, "accept": True}, 1),
        ({"kind": "status", "code": 307}, 0),
    ],
    ids=str,
)
async def test_an_answer_that_proves_nothing_is_unknown_and_the_post_is_not_repeated(
    client: RuncomfyClient, sandbox: Sandbox, body: dict[str, Any], fault: dict[str, Any], more: int
):
    before = accepted(sandbox)
    sandbox.order(on="submit", **fault)
    assert isinstance(await client.submit(EDIT, body), Unknown)
    assert len(accepted(sandbox)) == len(before) + more


async def test_input_that_does_not_fit_is_refused_with_the_names_of_its_fields(
    client: RuncomfyClient, sandbox: Sandbox
):
    before = accepted(sandbox)
    verdict = await client.submit(EDIT, {"aspect_ratio": "7:7"})
    assert isinstance(verdict, No)
    assert isinstance(verdict.error, Refused)
    assert "prompt" in verdict.error.message
    assert "aspect_ratio" in verdict.error.message
    assert accepted(sandbox) == before


async def test_a_wrong_token_is_rejected(connect: Connect, sandbox: Sandbox, body: dict[str, Any]):
    verdict = await (await connect(sandbox.url)).submit(EDIT, body)
    assert isinstance(verdict, No)
    assert isinstance(verdict.error, TokenRejected)


@pytest.mark.parametrize("value", [math.nan, object(), "\ud800"])
async def test_inputs_that_are_no_json_are_a_mistake_and_nothing_is_sent(
    connect: Connect, script: Script, value: object
):
    client = await connect(script.url)
    verdict = await client.submit(EDIT, {"prompt": value})
    assert isinstance(verdict, No)
    assert isinstance(verdict.error, InputInvalid)
    assert script.calls == []


@pytest.mark.parametrize(
    ("status", "value", "seconds"), [(429, "7", 7), (425, "0", 0), (429, "nan", None)]
)
async def test_a_refusal_for_now_waits_as_long_as_it_says(
    connect: Connect, script: Script, status: int, value: str, seconds: float | None
):
    script.say({}, status, Retry_After=value)
    verdict = await (await connect(script.url)).submit(EDIT, {})
    assert isinstance(verdict, SlowDown)
    assert (verdict.retry_after, verdict.http_status) == (seconds, status)
    assert (verdict.error.retry_after, verdict.error.may_be_charged) == (seconds, False)


async def test_a_body_cut_short_or_packed_wrongly_is_unknown(connect: Connect, script: Script):
    script.say({"request_id": "r-1"}, Content_Length="900")
    script.say({"request_id": "r-1"}, Content_Encoding="gzip")
    client = await connect(script.url)
    assert isinstance(await client.submit(EDIT, {}), Unknown)
    assert isinstance(await client.submit(EDIT, {}), Unknown)


async def test_an_answer_that_takes_too_long_in_all_is_unknown(
    client: RuncomfyClient,
    sandbox: Sandbox,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    before = accepted(sandbox)
    monkeypatch.setattr(client_module, "SUBMIT_SECONDS", 0.5)
    sandbox.order(on="submit", kind="delay", seconds=1.5)
    assert await client.submit(EDIT, body) == Unknown(
        "no answer came in time", SendProgress.BODY_SENT
    )
    assert len(accepted(sandbox)) == len(before) + 1


async def test_each_post_has_a_connection_of_its_own(connect: Connect, script: Script):
    script.say({"request_id": "r-1"})
    client = await connect(script.url)
    for _ in range(3):
        assert await client.submit(EDIT, {}) == Accepted("r-1")
    assert len({call.port for call in script.calls}) == 3
    script.answers.clear()
    script.say({"status": "in_queue"})
    for _ in range(3):
        await client.status("r-1")
    assert len({call.port for call in script.calls}) == 4
