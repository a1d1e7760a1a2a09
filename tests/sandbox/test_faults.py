"""The faults that a test may order; each is played as often as ordered, and then no more."""

from typing import Any

import httpx
import pytest

from tests.conftest import Sandbox

EDIT = "/v1/models/google/nano-banana/pro/edit"
LOST = (httpx.RemoteProtocolError, httpx.ReadError)


@pytest.fixture
def body(files: str):
    return {"prompt": "an office", "image_urls": [f"{files}/cat.jpg"], "aspect_ratio": "21:9"}


def accepted(sandbox: Sandbox):
    return len(sandbox.account()["requests"])


@pytest.mark.parametrize(
    ("fault", "status", "more"),
    [
        ({"kind": "drop-before"}, None, 0),
        ({"kind": "drop-after"}, None, 1),
        # Accepted at once, and answered when the caller has given up.
        ({"kind": "delay", "seconds": 0.5}, None, 1),
        ({"kind": "delay", "seconds": 0.1}, 200, 1),
        ({"kind": "status", "code": 429, "headers": {"Retry-After": "1"}}, 429, 0),
        ({"kind": "status", "code": 503, "accept": True}, 503, 1),
        ({"kind": "html"}, 200, 1),
        ({"kind": "error-code-200", "error_code": 400002}, 200, 0),
    ],
)
def test_a_bad_day_at_submit_may_hide_that_the_request_was_accepted(
    sandbox: Sandbox, body: dict[str, Any], fault: dict[str, Any], status: int | None, more: int
):
    before = accepted(sandbox)
    sandbox.order(on="submit", **fault)
    if status is None:
        with pytest.raises((*LOST, httpx.ReadTimeout)):
            sandbox.api.post(EDIT, json=body, timeout=0.3)
    else:
        answer = sandbox.api.post(EDIT, json=body)
        assert answer.status_code == status
        assert answer.headers.items() >= {
            (name.lower(), value) for name, value in fault.get("headers", {}).items()
        }
        if code := fault.get("error_code"):
            assert answer.json()["error_code"] == code
    assert accepted(sandbox) == before + more
    assert "request_id" in sandbox.api.post(EDIT, json=body).json()


@pytest.mark.parametrize("call", ["status", "result"])
def test_polling_has_bad_days_and_the_request_does_not_mind(
    sandbox: Sandbox, body: dict[str, Any], call: str
):
    request_id = sandbox.api.post(EDIT, json=body).json()["request_id"]
    path = f"/v1/requests/{request_id}/{call}"
    sandbox.order(on=call, kind="status", code=502)
    assert sandbox.api.get(path).status_code == 502
    sandbox.order(on=call, kind="status", code=404, body={"detail": "Not Found"}, times=2)
    for _ in range(2):
        answer = sandbox.api.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    sandbox.order(on=call, kind="html")
    assert sandbox.api.get(path).text.startswith("<!doctype html>")
    sandbox.order(on=call, kind="word", word="pondering")
    assert sandbox.api.get(path).json()["status"] == "pondering"
    sandbox.order(on=call, kind="drop")
    with pytest.raises(LOST):
        sandbox.api.get(path)
    assert sandbox.finish(request_id)["status"] == "completed"


def test_downloads_have_bad_days(sandbox: Sandbox, body: dict[str, Any]):
    done = sandbox.finish(sandbox.api.post(EDIT, json=body).json()["request_id"])
    url = done["output"]["images"][0]
    sandbox.order(on="cdn", kind="truncate")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        sandbox.open.get(url)
    sandbox.order(on="cdn", kind="html")
    assert sandbox.open.get(url).text.startswith("<!doctype html>")
    sandbox.order(on="cdn", kind="empty")
    assert sandbox.open.get(url).content == b""
    sandbox.order(on="cdn", kind="status", code=503)
    assert sandbox.open.get(url).status_code == 503
    assert sandbox.download(done)[0].startswith(b"\x89PNG")


def test_a_failed_generation_says_why_and_is_not_charged(sandbox: Sandbox, body: dict[str, Any]):
    sandbox.order(on="generation", kind="fail", message="the content was flagged")
    request_id = sandbox.api.post(EDIT, json=body).json()["request_id"]
    done = sandbox.finish(request_id)
    assert (done["status"], done["error"]["message"]) == ("failed", "the content was flagged")
    assert sandbox.booked(request_id)["charge_usd"] == 0


def test_faults_are_listed_and_cleared_and_a_senseless_one_is_refused(
    sandbox: Sandbox, body: dict[str, Any]
):
    sandbox.order(on="submit", kind="drop-before", times=3)
    assert sandbox.open.get("/sandbox/faults").json()[0]["times"] == 3
    assert sandbox.open.delete("/sandbox/faults").json() == []
    assert sandbox.api.post(EDIT, json=body).status_code == 200
    for senseless in ({"on": "cdn", "kind": "word"}, {"on": "submit", "kind": "drop", "x": 1}):
        assert sandbox.open.post("/sandbox/faults", json=senseless).status_code == 422
