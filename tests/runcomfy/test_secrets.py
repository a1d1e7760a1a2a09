"""The token and what signs a URL are in no text that leaves the room."""

import asyncio
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path

import pytest

from comfyline.errors import BrokenOutput, ComfylineError, TokenRejected, Unreachable
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.download import Downloads
from comfyline.runcomfy.retry import RetryBudget
from comfyline.runcomfy.verdict import No
from tests.conftest import EDIT, free_port
from tests.runcomfy.conftest import TOKEN, FakeTime, Peer, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]
Listen = Callable[[Peer], Awaitable[str]]


async def test_the_token_is_in_no_repr_error_or_log(
    connect: Connect, script: Script, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    client = await connect(script.url)
    told = [repr(client)]
    for status, body in (
        (401, {"detail": f"no such token: {TOKEN}"}),
        (422, {"message": f"Bearer {TOKEN}"}),
        (200, {"error_code": 400004, "error_message": TOKEN}),
        (500, {"error": TOKEN}),
    ):
        script.answers.clear()
        script.say(body, status)
        verdict = await client.submit(EDIT, {"prompt": "an office"})
        told += [repr(verdict), str(verdict.error) if isinstance(verdict, No) else ""]
        with pytest.raises(ComfylineError) as raised:
            await client.status("r")
        told += traceback.format_exception(raised.value)
    silent = await connect(f"http://127.0.0.1:{free_port()}")
    told.append(repr(await silent.submit(EDIT, {})))
    with pytest.raises(Unreachable) as away:
        await silent.status("r")
    told += traceback.format_exception(away.value)
    assert TOKEN not in "\n".join([*told, caplog.text])
    assert all(call.headers["Authorization"] == f"Bearer {TOKEN}" for call in script.calls)


ESCAPED = "".join(f"\\u{ord(character):04x}" for character in TOKEN)


SHAPES = [
    '{"status": "no %s"}',
    '{"status": "failed", "error": {"why": ["%s"]}}',
    '{"status": "failed", "error_message": "x%s"}',
    '{"detail": [{"loc": ["%s"], "msg": "m"}]}',
    '{"detail": {"%s": {"a": 1}}}',
    '{"error_code": 400001, "message": "%s"}',
    '{"outcome": "%s"}',
]


@pytest.mark.parametrize("echo", [TOKEN, ESCAPED], ids=["plain", "escaped"])
@pytest.mark.parametrize("status", [200, 422])
async def test_an_answer_that_quotes_the_token_is_told_without_it(
    connect: Connect, script: Script, tmp_path: Path, echo: str, status: int
):
    client = await connect(script.url, patience=0)
    told = []
    # A long text is cut short, and half a token is a secret as well.
    for padding, shape in product(("", "x" * 980), SHAPES):
        script.answers.clear()
        script.say(shape.replace("%s", padding + echo).encode(), status)
        told.append(repr(await client.submit(EDIT, {})))
        for call in (client.status("r"), client.cancel("r"), client.result("r", tmp_path / "r")):
            try:
                told.append(repr(await call))
            except ComfylineError as error:
                told += traceback.format_exception(error)
    assert TOKEN[:8] not in "\n".join(told)


async def test_the_token_is_not_in_what_errors_carry_along(connect: Connect, listen: Listen):
    async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    client = await connect(await listen(hang_up), patience=0)
    with pytest.raises(Unreachable) as raised:
        await client.status("r")
    errors: list[BaseException] = [raised.value]
    while cause := errors[-1].__cause__ or errors[-1].__context__:
        errors.append(cause)
    assert len(errors) > 1
    assert TOKEN not in "".join(repr(vars(error)) for error in errors)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve", "nul\0", "…"])
def test_a_token_that_no_header_can_hold_is_rejected_without_being_shown(
    token: str, time: FakeTime
):
    with pytest.raises(TokenRejected) as raised:
        RuncomfyClient("https://a.test", token, RetryBudget(1, time))
    shown = "".join(traceback.format_exception(raised.value))
    assert not token or token not in shown


async def test_the_query_of_an_output_is_in_no_error_or_log(
    script: Script, time: FakeTime, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    told = []
    # Made here, because a traceback quotes the lines of this file.
    secret = secrets.token_hex()
    script.say(b"", 403).say(b"", 500).say(b"", 200).say(b"abc", Content_Length="9")
    gone = f"http://127.0.0.1:{free_port()}"
    async with Downloads((), script.url, sleep=time.sleep) as downloads:
        for origin in (script.url, script.url, gone, "http://elsewhere.test"):
            with pytest.raises((BrokenOutput, Unreachable)) as raised:
                await downloads.save(
                    f"{origin}/1.png?signature={secret}#{secret}", tmp_path / "a", None
                )
            told += traceback.format_exception(raised.value)
    shown = "\n".join([*told, caplog.text])
    assert "/1.png" in shown
    assert secret not in shown
    assert script.calls[0].path == f"/1.png?signature={secret}"
