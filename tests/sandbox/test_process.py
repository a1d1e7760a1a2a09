"""The process: restarts, signals, the port and the log."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sandbox


def test_a_kill_loses_nothing_and_charges_once(start_sandbox: Callable[..., Sandbox], files: str):
    sandbox = start_sandbox(slots=1)
    url = f"{files}/cat.jpg"
    done = sandbox.submit("an office", url)
    before = sandbox.download(sandbox.finish(done))
    sandbox.order(on="generation", kind="delay", seconds=60)
    running = sandbox.submit("a beach", f"{url}?X-Amz-Signature=hidden")
    sandbox.until(lambda: sandbox.status(running)["status"] == "in_progress")
    waiting = sandbox.submit("a forest", url)

    sandbox.end(signal.SIGKILL)
    sandbox.start()

    assert sandbox.download(sandbox.result(done)) == before
    ends = [sandbox.finish(each) for each in (running, waiting)]
    assert [end["status"] for end in ends] == ["completed", "completed"]
    assert ends[0]["finished_at"] < ends[1]["finished_at"]
    account = sandbox.account()
    assert [row["charge_usd"] for row in account["requests"]] == [0.14] * 3
    assert account["charged_usd"] == pytest.approx(0.42)
    assert account["requests"][1]["input"]["image_urls"] == [url]
    assert sandbox.end(signal.SIGINT) == 0


def test_a_signal_ends_it_with_0_and_no_traceback_in_the_middle_of_work(
    start_sandbox: Callable[..., Sandbox], files: str
):
    sandbox = start_sandbox()
    sandbox.order(on="generation", kind="delay", seconds=60)
    request_id = sandbox.submit("an office", f"{files}/cat.jpg")
    sandbox.until(lambda: sandbox.status(request_id)["status"] == "in_progress")
    assert sandbox.end(signal.SIGTERM) == 0
    assert "Traceback" not in sandbox.log.read_text()


def test_a_taken_port_is_said_with_the_option_that_chooses_another_and_69(
    sandbox: Sandbox, tmp_path: Path
):
    command = [*sandbox.command, "--state", str(tmp_path / "other")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == 69
    said, hint = ended.stderr.splitlines()
    assert "cannot listen" in said
    assert "--port" in hint


def test_the_log_has_a_line_for_each_request_and_no_query_and_no_token(
    sandbox: Sandbox, files: str
):
    request_id = sandbox.submit("an office", f"{files}/cat.jpg?X-Amz-Signature=hidden")
    sandbox.finish(request_id)
    sandbox.api.get("/v1/models", params={"search": "hidden"})
    log = sandbox.log.read_text()
    assert f"GET /v1/requests/{request_id}/result 200" in log
    assert "GET /v1/models 200" in log
    assert "hidden" not in log
    assert "sandbox-token" not in log
