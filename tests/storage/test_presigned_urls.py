"""A presigned URL is tried out before money is spent, and what is wrong is said in words."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from comfyline.errors import Unfetchable, Unreachable
from comfyline.storage import uploads
from comfyline.storage.uploads import try_out
from tests.runcomfy.tls import certificate

URI = "s3://inputs/a.png"
QUERY = "X-Amz-Signature=secret"

asked: list[str] = []
"""The requests that the server of a test has got."""


@asynccontextmanager
async def answering(
    status: str, body: str = "", tls: ssl.SSLContext | None = None, **headers: str
) -> AsyncIterator[str]:
    """The URL of an object on a server that always gives the same answer."""
    told = {"Date": format_datetime(datetime.now(UTC), usegmt=True)} | headers
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in told.items())]
    whole = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", body])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(whole.encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    asked.clear()
    yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/inputs/a.png?{QUERY}"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "date"),
    [("206 Partial Content", ""), ("200 OK", "yesterday"), ("200 OK", "Mon, 99 Foo 2026 99:99:99")],
)
async def test_what_is_given_is_asked_for_once_from_its_first_byte_and_without_login(
    status: str, date: str
) -> None:
    """A server that does not tell the time is no mistake."""
    async with answering(status, "the first bytes", Date=date) as url:
        await try_out(url, URI)

    (head,) = asked
    assert "range: bytes=0-15" in head.lower()
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()


@pytest.mark.parametrize(
    ("status", "code", "said", "hint"),
    [
        ("403 Forbidden", "AccessDenied", "HTTP 403, AccessDenied", "has only the URL"),
        ("403 Forbidden", "RequestTimeTooSkewed", "RequestTimeTooSkewed", "clock"),
        ("400 Bad Request", "ExpiredToken", "HTTP 400, ExpiredToken", "Renew the credentials"),
        ("307 Temporary Redirect", "TemporaryRedirect", "HTTP 307", "Set AWS_REGION"),
        ("404 Not Found", "NoSuchKey", "HTTP 404, NoSuchKey", "Check the endpoint"),
        ("401 Unauthorized", "<b>secret</b>", "(HTTP 401)", "has only the URL"),
    ],
)
async def test_what_waiting_does_not_mend_says_what_to_do_and_no_secret(
    status: str, code: str, said: str, hint: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>for {QUERY}</Message></Error>"
    async with answering(status, body, Location="http://elsewhere/") as url:
        with pytest.raises(Unfetchable) as caught:
            await try_out(url, URI)

    assert not caught.value.passing
    assert URI in caught.value.message
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Oops", "429 Too Many Requests"])
async def test_a_storage_that_is_away_for_a_moment_may_be_asked_again(status: str) -> None:
    async with answering(status) as url:
        with pytest.raises(Unreachable, match=f"HTTP {status[:3]}") as caught:
            await try_out(url, URI)

    assert caught.value.passing


@pytest.mark.parametrize(
    ("minutes", "word"), [(-40, "40 minutes ahead of"), (40, "40 minutes behi")]
)
@pytest.mark.parametrize("status", ["206 Partial Content", "403 Forbidden"])
async def test_a_clock_that_is_wrong_is_named_whatever_the_answer(
    minutes: int, word: str, status: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    async with answering(status, Date=date) as url:
        with pytest.raises(Unfetchable, match=f"This machine's clock is {word}"):
            await try_out(url, URI)


async def test_a_certificate_that_only_this_machine_trusts_is_named(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate(tmp_path))
    async with answering("206 Partial Content", tls=tls) as url:
        with pytest.raises(Unfetchable, match="is not publicly trusted"):
            await try_out(url, URI)


async def test_nobody_there_and_a_server_that_stays_silent_may_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "_SECONDS", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    for port in (9, server.sockets[0].getsockname()[1]):
        with pytest.raises(Unreachable, match="from the internet") as caught:
            await try_out(f"http://127.0.0.1:{port}/a?{QUERY}", URI)
        assert caught.value.passing
        assert "secret" not in str(caught.value)
    server.close()
    await server.wait_closed()
