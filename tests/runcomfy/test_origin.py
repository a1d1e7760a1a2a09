"""The token goes to the API's origin and nowhere else: not on a redirect, not past a proxy."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from comfyline.errors import ComfylineError, Redirected, Unreachable
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Accepted, Unknown
from tests.conftest import EDIT
from tests.runcomfy.conftest import TOKEN, FakeTime, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]


@pytest.mark.parametrize("status", [301, 304, 307])
async def test_a_redirect_is_an_error_at_once_that_names_where_it_leads(
    connect: Connect, script: Script, elsewhere: Script, tmp_path: Path, time: FakeTime, status: int
):
    elsewhere.say({"status": "completed", "request_id": "r-1"})
    script.say(b"", status, Location=f"{elsewhere.url}/status?signature=5ecret")
    client = await connect(script.url)
    calls = (
        client.status("r"),
        client.result("r", tmp_path / "r.json"),
        client.cancel("r"),
        client.catalogue_entry(EDIT),
        client.models(),
    )
    for call in calls:
        with pytest.raises(Redirected) as raised:
            await call
        assert f"{elsewhere.url} (" in raised.value.message
        assert "base_url" in raised.value.hint
        assert "5ecret" not in str(raised.value)
    assert await client.submit(EDIT, {}) == Unknown(f"HTTP {status}")
    assert len(script.calls) == len(calls) + 1
    assert (time.slept, elsewhere.calls) == ([], [])


@pytest.mark.parametrize("location", ["", "/there", "ftp://a.test/", "//", "http://a:b:c/"])
async def test_a_redirect_to_nowhere_is_an_error_too(
    connect: Connect, script: Script, location: str
):
    script.say(b"", 302, Location=location)
    with pytest.raises(Redirected, match=r"redirects \(HTTP 302\)"):
        await (await connect(script.url)).status("r")


async def test_nothing_that_a_server_would_remember_is_sent_back(connect: Connect, script: Script):
    script.say({"status": "in_queue"}, Set_Cookie="id=1; Path=/")
    client = await connect(script.url)
    for _ in range(2):
        await client.status("r")
    assert [call.headers.get_all("Authorization") for call in script.calls] == [
        [f"Bearer {TOKEN}"]
    ] * 2
    assert "Cookie" not in script.calls[1].headers


async def test_the_balance_is_asked_for_where_it_was_named_with_the_token(
    connect: Connect, script: Script, elsewhere: Script
):
    elsewhere.say({"balance_usd": 12.5, "currency": "USD"})
    client = await connect(script.url, balance_url=f"{elsewhere.url}/prod/v2/balance")
    assert await client.balance() == 12.5
    [call] = elsewhere.calls
    assert (call.path, call.headers["Authorization"]) == ("/prod/v2/balance", f"Bearer {TOKEN}")
    assert await (await connect(script.url)).balance() is None
    assert script.calls == []


@pytest.mark.parametrize(
    ("balance", "read"), [(0, 0.0), (-3, -3.0), ("12", None), (None, None), (True, None)]
)
async def test_a_balance_that_is_no_amount_of_money_is_unknown(
    connect: Connect, script: Script, balance: object, read: float | None
):
    script.say({"balance_usd": balance})
    assert await (await connect(script.url, balance_url=script.url)).balance() == read


@pytest.mark.parametrize("status", [302, 404, 429, 500])
async def test_the_trouble_of_the_balance_is_said_at_once_and_is_none_of_the_apis(
    connect: Connect, script: Script, time: FakeTime, status: int
):
    script.say(b"", status, Location="https://else.test")
    client = await connect("http://api.test", balance_url=script.url)
    with pytest.raises(ComfylineError):
        await client.balance()
    assert await client.known_balance() is None
    assert (len(script.calls), time.slept) == (2, [])


@pytest.fixture
def proxy(elsewhere: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    for name in ("no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, elsewhere.url.replace("http", "HTTP"))
    return elsewhere.say({"request_id": "r-1"})


async def test_a_proxy_of_the_machines_leads_outwards_and_sees_nothing_else(
    connect: Connect, script: Script, proxy: Script
):
    script.say({"request_id": "r-1"})
    assert await (await connect(script.url)).submit(EDIT, {}) == Accepted("r-1")
    assert proxy.calls == []
    assert await (await connect("http://api.test")).submit(EDIT, {}) == Accepted("r-1")
    assert [call.path for call in proxy.calls] == [f"http://api.test/v1/models/{EDIT}"]


async def test_an_exception_to_the_proxy_is_kept_to(
    connect: Connect, proxy: Script, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "other.test,api.test")
    client = await connect("http://api.test", patience=0)
    with pytest.raises(Unreachable):
        await client.status("r")
    assert proxy.calls == []
