"""metrics: the ledger as a page for Prometheus."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from tests.cli.conftest import Office, ago, asked
from tests.conftest import free_port


@contextmanager
def serving(office: Office) -> Iterator[str]:
    """The command in a process of its own; the address of its page."""
    port = free_port()
    profile = ["--profile", office.account.profile]
    command = [sys.executable, "-m", "comfyline.cli", "metrics", "--port", str(port), *profile]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        assert f"127.0.0.1:{port}/metrics" in said, said + process.stderr.read()
        yield f"http://127.0.0.1:{port}/metrics"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def samples(page: str) -> dict[str, float]:
    """The value of each series by its name and its labels, without those of the library."""
    found: dict[str, float] = {}
    text = httpx.get(page, trust_env=False).raise_for_status().text
    for line in text.splitlines():
        if line.startswith("comfyline_"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.rstrip("}").partition("{")
            told = [one for one in labels.split(",") if not one.startswith("otel_scope")]
            found[",".join([name, *told])] = float(value)
    return found


def until(page: str, series: str) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while series not in (found := samples(page)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_the_page_shows_what_waits_what_is_in_doubt_and_what_the_day_cost(office: Office) -> None:
    office.submitted(asked("waiting"), at=ago(days=6))
    office.doubted(asked("a doubt"))
    office.stored(asked("stored"), "request-1", cost=0.14)

    async def complete(ledger: Ledger) -> None:
        await ledger.open_run("run-1", "scenes")
        await ledger.run_completed("run-1")

    office.ledger(complete)
    with serving(office) as page:
        shown = until(page, "comfyline_in_doubt")

    assert shown["comfyline_ledger_up"] == shown["comfyline_in_doubt"] == 1
    states = {name: value for name, value in shown.items() if name.startswith("comfyline_jobs,")}
    assert states.pop('comfyline_jobs,state="submitted"') == 1
    assert set(states.values()) == {0}
    age = shown["comfyline_oldest_unstored_seconds"]
    assert age == pytest.approx(6 * 86400, abs=600)
    stored = 'pipeline="scenes",state="persisted"'
    assert shown[f"comfyline_day_jobs,{stored}"] == 1
    assert shown[f"comfyline_day_cost_usd,{stored}"] == pytest.approx(0.14)
    assert shown[f'comfyline_day_jobs,pipeline="scenes",state="{JobState.IN_DOUBT}"'] == 1
    completed = shown['comfyline_last_completed_timestamp_seconds,pipeline="scenes"']
    assert time.time() - completed < 120


def test_a_ledger_that_cannot_be_read_is_told_as_such(office: Office) -> None:
    (office.folder / "home/ledger.sqlite3").write_text("no database, but a letter")
    with serving(office) as page:
        assert until(page, "comfyline_ledger_up") == {"comfyline_ledger_up": 0}


def test_a_port_that_is_taken_is_named(office: Office) -> None:
    port = office.sandbox.url.rpartition(":")[2]
    ended = office.comfyline("metrics", "--port", port)
    assert ended.code == 69
    assert f"port {port}, requested for metrics, is used by" in ended.stderr
