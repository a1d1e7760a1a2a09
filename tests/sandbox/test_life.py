"""The life of a request, from submission to its files, and that of the process around it."""

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EDIT, Sandbox


@pytest.fixture(scope="module")
def narrow(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """A sandbox of this module's own, which works on one request at a time."""
    return start_sandbox(slots=1, pixels=1024)


def test_a_request_is_answered_at_once_and_ends_completed_with_files_and_a_charge(
    sandbox: Sandbox, files: str
):
    body = {"prompt": "an office", "image_urls": [f"{files}/cat.jpg"], "num_images": 3}
    sent = sandbox.api.post(f"/v1/models/{EDIT}", json=body).json()
    request_id = sent["request_id"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", request_id)
    here = f"{sandbox.url}/v1/requests/{request_id}"
    calls = {call: sent[f"{call}_url"] for call in ("status", "result", "cancel")}
    assert calls == {call: f"{here}/{call}" for call in calls}
    early = sandbox.api.get(sent["result_url"]).json()
    assert early["status"] in {"in_queue", "in_progress"}
    assert "output" not in early
    done = sandbox.finish(request_id)
    assert done["status"] == "completed"
    assert done["cost"] == pytest.approx(0.42)
    assert done["created_at"] < done["finished_at"]
    assert done["finished_at"].endswith("Z")
    assert [picture[:4] for picture in sandbox.download(done)] == [b"\x89PNG"] * 3
    # The cost is shown only when it is asked for.
    assert "cost" not in sandbox.api.get(f"/v1/requests/{request_id}/result").json()
    account = sandbox.account()
    charges = sum(request["charge_usd"] for request in account["requests"])
    assert account["charged_usd"] == pytest.approx(charges)
    assert account["balance_usd"] == pytest.approx(1000 - charges)
    balance = sandbox.api.get("/prod/v2/balance").json()
    assert balance.keys() == {"balance_usd", "currency"}
    assert balance["currency"] == "USD"


def test_the_queue_is_first_come_first_served_and_only_who_waits_can_be_cancelled(
    narrow: Sandbox, files: str
):
    charged = narrow.account()["charged_usd"]
    narrow.order(on="generation", kind="delay", seconds=1.5)
    url = f"{files}/cat.jpg"
    first = narrow.submit("an office", url)
    narrow.until(lambda: narrow.status(first)["status"] == "in_progress")
    second, third, fourth = (narrow.submit("an office", url) for _ in range(3))
    waiting = [narrow.status(each) for each in (second, third, fourth)]
    assert [status["queue_position"] for status in waiting] == [0, 1, 2]
    assert "queue_position" not in narrow.status(first)

    kept = narrow.api.post(f"/v1/requests/{first}/cancel").json()
    assert kept == {"request_id": first, "status": "in_progress", "outcome": "not_cancellable"}
    gone = narrow.api.post(f"/v1/requests/{third}/cancel").json()
    assert gone == {"request_id": third, "status": "cancelled", "outcome": "cancelled"}
    assert narrow.status(fourth)["queue_position"] == 1

    ends = [narrow.finish(each) for each in (fourth, second, first)]
    assert [end["status"] for end in ends] == ["completed"] * 3
    moments = [end["finished_at"] for end in ends]
    assert moments == sorted(moments, reverse=True)
    late = narrow.api.post(f"/v1/requests/{first}/cancel").json()
    assert late["outcome"] == "not_cancellable"
    assert narrow.account()["charged_usd"] - charged == pytest.approx(0.42)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("secret.jpg", "403"),
        ("page.jpg", "no picture"),
        ("circle.jpg", "redirects"),
        ("empty.jpg", "empty"),
        ("missing.jpg", "404"),
    ],
)
def test_an_input_that_cannot_be_used_fails_the_request_and_costs_nothing(
    sandbox: Sandbox, files: str, name: str, reason: str
):
    request_id = sandbox.submit("an office", f"{files}/{name}?X-Amz-Signature=hidden")
    done = sandbox.finish(request_id)
    assert done["status"] == "failed"
    assert reason in done["error"]["message"]
    assert "hidden" not in str(done)
    assert sandbox.booked(request_id)["charge_usd"] == 0


def test_sync_mode_hands_the_media_over_once_and_keeps_nothing(sandbox: Sandbox, files: str):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg", sync_mode=True)
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "completed")
    first = sandbox.result(request_id)
    assert first["output"]["images"][0].startswith("data:image/png;base64,")

    def handed_over() -> dict[str, Any] | None:
        later = sandbox.result(request_id)
        return later if later["output"] == {} else None

    later = sandbox.until(handed_over)
    assert later["status"] == "completed"
    assert later["cost"] == 0.14
    assert sandbox.open.get(f"/cdn/{request_id}/0.png").status_code == 404
    sandbox.until(lambda: not list(sandbox.state.rglob(f"{request_id}*")))


def test_a_sync_result_that_did_not_arrive_whole_is_still_there(narrow: Sandbox, files: str):
    # Larger than what the sockets' buffers take.
    noise, settings = f"{files}/noise.png", {"aspect_ratio": "1:1", "resolution": "2K"}
    request_id = narrow.submit("daylight", noise, num_images=2, sync_mode=True, **settings)
    narrow.until(lambda: narrow.status(request_id)["status"] == "completed", 60)
    with narrow.api.stream("GET", f"/v1/requests/{request_id}/result") as answer:
        next(answer.iter_raw(1000))
    assert narrow.result(request_id)["output"]["images"]


def test_an_expired_request_is_unknown_and_so_are_its_files(sandbox: Sandbox, files: str):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg")
    url = sandbox.finish(request_id)["output"]["images"][0]
    sandbox.open.post(f"/sandbox/expire/{request_id}").raise_for_status()
    for call in ("status", "result"):
        answer = sandbox.api.get(f"/v1/requests/{request_id}/{call}")
        assert (answer.status_code, answer.json()["error_code"]) == (404, 404001)
    assert sandbox.open.get(url).status_code == 404
    assert sandbox.booked(request_id)["charge_usd"] == 0.14


def test_a_kill_loses_nothing_and_charges_once_and_a_signal_ends_it_with_0(
    narrow: Sandbox, files: str
):
    url = f"{files}/cat.jpg"
    done = narrow.submit("an office", url)
    before = narrow.download(narrow.finish(done))
    charged = narrow.account()["charged_usd"]
    narrow.order(on="generation", kind="delay", seconds=60)
    running = narrow.submit("a beach", f"{url}?X-Amz-Signature=hidden")
    narrow.until(lambda: narrow.status(running)["status"] == "in_progress")
    waiting = narrow.submit("a forest", url)

    narrow.end(signal.SIGKILL)
    narrow.start()

    assert narrow.download(narrow.result(done)) == before
    ends = [narrow.finish(each) for each in (running, waiting)]
    assert [end["status"] for end in ends] == ["completed", "completed"]
    assert ends[0]["finished_at"] < ends[1]["finished_at"]
    account = narrow.account()
    assert [row["charge_usd"] for row in account["requests"][-3:]] == [0.14] * 3
    assert account["charged_usd"] - charged == pytest.approx(0.28)
    assert narrow.booked(running)["input"]["image_urls"] == [url]

    narrow.order(on="generation", kind="delay", seconds=60)
    broken_off = narrow.submit("an office", url)
    narrow.until(lambda: narrow.status(broken_off)["status"] == "in_progress")
    assert narrow.end(signal.SIGTERM) == 0
    assert "Traceback" not in narrow.log.read_text()


def test_a_taken_port_is_said_with_the_option_that_chooses_another_and_69(
    sandbox: Sandbox, tmp_path: Path
):
    command = [*sandbox.command, "--state", str(tmp_path / "other")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 69
    said, hint = ended.stderr.splitlines()
    assert "cannot listen" in said
    assert said.endswith(": Address already in use")
    assert "--port" in hint


def test_the_log_has_a_line_for_each_request_and_no_query_and_no_token(
    sandbox: Sandbox, files: str
):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg?X-Amz-Signature=hidden")
    sandbox.finish(request_id)
    sandbox.api.get("/v1/models", params={"search": "hidden"})
    # A line is written when its answer has gone out.
    sandbox.until(lambda: "GET /v1/models 200" in sandbox.log.read_text())
    log = sandbox.log.read_text()
    assert f"GET /v1/requests/{request_id}/result 200" in log
    assert "hidden" not in log
    assert "sandbox-token" not in log
