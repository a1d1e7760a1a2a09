"""The life of a request, from submission to its files."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Sandbox

EDIT = "google/nano-banana/pro/edit"


def test_a_request_is_answered_at_once_and_ends_completed_with_files_and_a_charge(
    sandbox: Sandbox, files: str
):
    body = {"prompt": "an office", "image_urls": [f"{files}/cat.jpg"]}
    sent = sandbox.api.post(f"/v1/models/{EDIT}", json=body).json()
    request_id = sent["request_id"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", request_id)
    assert sent["status_url"] == f"{sandbox.url}/v1/requests/{request_id}/status"
    assert sent["result_url"] == f"{sandbox.url}/v1/requests/{request_id}/result"
    assert sent["cancel_url"] == f"{sandbox.url}/v1/requests/{request_id}/cancel"
    early = sandbox.api.get(sent["result_url"]).json()
    assert early["status"] in {"in_queue", "in_progress"}
    assert "output" not in early
    done = sandbox.finish(request_id)
    assert done["status"] == "completed"
    assert done["cost"] == 0.14
    assert done["created_at"] < done["finished_at"]
    assert done["finished_at"].endswith("Z")
    assert sandbox.download(done)[0].startswith(b"\x89PNG")


def test_the_cost_is_shown_only_when_asked_for(sandbox: Sandbox, files: str):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg")
    sandbox.finish(request_id)
    assert "cost" not in sandbox.api.get(f"/v1/requests/{request_id}/result").json()


def test_each_output_is_charged_and_the_balance_goes_down_by_it(sandbox: Sandbox, files: str):
    before = sandbox.api.get("/prod/v2/balance").json()
    request_id = sandbox.submit("an office", f"{files}/cat.jpg", num_images=3)
    assert sandbox.finish(request_id)["cost"] == pytest.approx(0.42)
    after = sandbox.api.get("/prod/v2/balance").json()
    assert before["currency"] == "USD"
    assert before["balance_usd"] - after["balance_usd"] == pytest.approx(0.42)
    account = sandbox.account()
    assert account["balance_usd"] == after["balance_usd"]
    charges = sum(request["charge_usd"] for request in account["requests"])
    assert account["charged_usd"] == pytest.approx(charges)


def test_the_queue_is_first_come_first_served_and_only_who_waits_can_be_cancelled(
    start_sandbox: Callable[..., Sandbox], files: str
):
    sandbox = start_sandbox(slots=1)
    sandbox.order(on="generation", kind="delay", seconds=1.5)
    url = f"{files}/cat.jpg"
    first = sandbox.submit("an office", url)
    sandbox.until(lambda: sandbox.status(first)["status"] == "in_progress")
    second, third, fourth = (sandbox.submit("an office", url) for _ in range(3))
    waiting = [sandbox.status(each) for each in (second, third, fourth)]
    assert [status["queue_position"] for status in waiting] == [0, 1, 2]
    assert "queue_position" not in sandbox.status(first)

    kept = sandbox.api.post(f"/v1/requests/{first}/cancel").json()
    assert kept == {"request_id": first, "status": "in_progress", "outcome": "not_cancellable"}
    gone = sandbox.api.post(f"/v1/requests/{third}/cancel").json()
    assert gone == {"request_id": third, "status": "cancelled", "outcome": "cancelled"}
    assert sandbox.status(fourth)["queue_position"] == 1

    ends = [sandbox.finish(each) for each in (fourth, second, first)]
    assert [end["status"] for end in ends] == ["completed"] * 3
    moments = [end["finished_at"] for end in ends]
    assert moments == sorted(moments, reverse=True)
    late = sandbox.api.post(f"/v1/requests/{first}/cancel").json()
    assert late["outcome"] == "not_cancellable"
    assert sandbox.account()["charged_usd"] == pytest.approx(0.42)


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


def test_a_model_without_num_images_answers_with_a_single_image(sandbox: Sandbox):
    answer = sandbox.api.post("/v1/models/acme/brush", json={"prompt": "a beach"})
    done = sandbox.finish(answer.json()["request_id"])
    assert list(done["output"]) == ["image"]


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


def test_a_sync_result_that_did_not_arrive_whole_is_still_there(
    start_sandbox: Callable[..., Sandbox], files: str
):
    # Larger than what the sockets' buffers take.
    sandbox = start_sandbox(pixels=1024)
    noise, settings = f"{files}/noise.png", {"aspect_ratio": "1:1", "resolution": "2K"}
    request_id = sandbox.submit("daylight", noise, num_images=2, sync_mode=True, **settings)
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "completed", 60)
    with sandbox.api.stream("GET", f"/v1/requests/{request_id}/result") as answer:
        next(answer.iter_raw(1000))
    assert sandbox.result(request_id)["output"]["images"]


def test_an_expired_request_is_unknown_and_so_are_its_files(sandbox: Sandbox, files: str):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg")
    url = sandbox.finish(request_id)["output"]["images"][0]
    sandbox.open.post(f"/sandbox/expire/{request_id}").raise_for_status()
    for call in ("status", "result"):
        answer = sandbox.api.get(f"/v1/requests/{request_id}/{call}")
        assert (answer.status_code, answer.json()["error_code"]) == (404, 404001)
    assert sandbox.open.get(url).status_code == 404
    assert sandbox.booked(request_id)["charge_usd"] == 0.14
