"""The token goes to the API's origin and nowhere else: not on a redirect, not past a proxy."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from comfyline.errors import ComfylineError, Redirected, Unreachable
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.transport import ApiTransport
from comfyline.runcomfy.verdict import Accepted, Unknown
from tests.conftest import EDIT
from tests.runcomfy.conftest import TOKEN, FakeTime, Script

Connect = Callable[..., Awaitable[RuncomfyClient]]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_an_error_at_once_that_names_where_it_leads(
    connect: Connect,
    start_script: Callable[[], Script],
    tmp_path: Path,
    time: FakeTime,
    status: int,
):
    api, elsewhere = start_script(), start_script()
    elsewhere.say({"status": "completed"})
    api.say(b"", status, Location=f"{elsewhere.url}/status?signature=5ecret")
    client = await connect(api.url)
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
    assert len(api.calls) == len(calls)
    assert time.slept == []
    assert elsewhere.calls == []


@pytest.mark.parametrize("location", ["", "/there", "ftp://a.test/", "//", "http://a:b:c/"])
async def test_a_redirect_to_nowhere_is_an_error_too(
    connect: Connect, script: Script, location: str
):
    script.say(b"", 302, Location=location)
    client = await connect(script.url)
    with pytest.raises(Redirected, match=r"redirects \(HTTP 302\)"):
        await client.status("r")
    assert await client.submit(EDIT, {}) == Unknown("HTTP 302")


async def test_a_redirect_of_the_paid_post_is_unknown_and_not_followed(
    connect: Connect, start_script: Callable[[], Script]
):
    api, elsewhere = start_script(), start_script()
    elsewhere.say({"request_id": "r-1"})
    api.say(b"", 307, Location=f"{elsewhere.url}/v1/models/x")
    assert await (await connect(api.url)).submit(EDIT, {}) == Unknown("HTTP 307")
    assert [call.headers["Authorization"] for call in api.calls] == [f"Bearer {TOKEN}"]
    assert elsewhere.calls == []


async def test_no_request_leaves_for_an_origin_that_was_not_named(
    start_script: Callable[[], Script],
):
    api, elsewhere = start_script(), start_script()
    for script in (api, elsewhere):
        script.say({})
    async with httpx.AsyncClient(transport=ApiTransport(TOKEN, (api.url,))) as http:
        answer = await http.get(f"{api.url}/a")
        for url in (elsewhere.url, api.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(httpx.UnsupportedProtocol):
                await http.get(url)
    assert [call.headers.get_all("Authorization") for call in api.calls] == [[f"Bearer {TOKEN}"]]
    assert elsewhere.calls == []
    # Nor does the request to which errors and logs refer.
    assert "Authorization" not in answer.request.headers


async def test_the_balance_is_asked_for_where_it_was_named_with_the_token(
    connect: Connect, start_script: Callable[[], Script]
):
    api, wallet = start_script(), start_script()
    wallet.say({"balance_usd": 12.5, "currency": "USD"})
    client = await connect(api.url, balance_url=f"{wallet.url}/prod/v2/balance")
    assert await client.balance() == 12.5
    [call] = wallet.calls
    assert (call.path, call.headers["Authorization"]) == ("/prod/v2/balance", f"Bearer {TOKEN}")
    assert await (await connect(api.url)).balance() is None
    assert api.calls == []


@pytest.mark.parametrize(
    ("balance", "read"), [(0, 0.0), (-3, -3.0), ("12", None), (None, None), (True, None)]
)
async def test_a_balance_that_is_no_amount_of_money_is_unknown(
    connect: Connect, script: Script, balance: object, read: float | None
):
    script.say({"balance_usd": balance})
    assert await (await connect(script.url, balance_url=script.url)).balance() == read


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500])
async def test_the_trouble_of_the_balance_is_said_at_once_and_is_none_of_the_apis(
    connect: Connect, start_script: Callable[[], Script], time: FakeTime, status: int
):
    api, wallet = start_script(), start_script()
    wallet.say(b"", status, Location=api.url)
    client = await connect(api.url, balance_url=wallet.url)
    with pytest.raises(ComfylineError):
        await client.balance()
    assert (len(wallet.calls), time.slept, api.calls) == (1, [], [])


@pytest.fixture
def proxy(start_script: Callable[[], Script], monkeypatch: pytest.MonkeyPatch) -> Script:
    proxy = start_script()
    for name in ("no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    return proxy.say({"request_id": "r-1"})


async def test_a_proxy_of_the_machines_does_not_see_what_goes_to_the_machine_itself(
    connect: Connect, script: Script, proxy: Script
):
    script.say({"request_id": "r-1"})
    assert await (await connect(script.url)).submit(EDIT, {}) == Accepted("r-1")
    assert proxy.calls == []


async def test_a_proxy_of_the_machines_leads_outwards(connect: Connect, proxy: Script):
    client = await connect("http://api.test")
    assert await client.submit(EDIT, {}) == Accepted("r-1")
    assert [call.path for call in proxy.calls] == [f"http://api.test/v1/models/{EDIT}"]


async def test_an_exception_to_the_proxy_is_kept_to(
    connect: Connect, proxy: Script, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "other.test,api.test")
    client = await connect("http://api.test", patience=0)
    with pytest.raises(Unreachable):
        await client.status("r")
    assert proxy.calls == []
