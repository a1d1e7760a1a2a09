"""Metrics and traces go where they are asked to go, cost nothing else, and stop no run."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from comfyline.config.settings import TelemetrySettings
from comfyline.errors import TryLater
from comfyline.job import Job, JobState, Placement
from comfyline.progress import Event, JobEnded, Note, RunPlanned, observed_by, tell
from comfyline.run import Outcome
from comfyline.telemetry.export import telemetry
from comfyline.telemetry.spans import current_fields, span
from tests.conftest import free_port
from tests.otlp import collector

JOB = Job(
    "office", "cat", "edit", "acme/painter", {}, Placement("", "", {}), labels={"client": "x"}
)


@contextmanager
def notes() -> Iterator[list[str]]:
    told: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            told.append(event.text)

    with observed_by(hear):
        yield told


async def test_a_run_serves_a_page_while_it_works_and_a_second_one_goes_on_without():
    page = ("127.0.0.1", free_port())
    asked = TelemetrySettings(metrics=frozenset({"prometheus"}), page=page, labels=("client",))
    url = f"http://{page[0]}:{page[1]}/metrics"
    async with telemetry(asked, "run-1"):
        tell(RunPlanned("run-1", "office", jobs=1, reused=0, estimate_usd=None))
        tell(JobEnded(Outcome(JOB, "k", JobState.FAILED, error=TryLater("Not now"))))
        with notes() as told:
            async with telemetry(asked, "run-2"):
                tell(JobEnded(Outcome(JOB, "k", JobState.PERSISTED)))
        text = (await asyncio.to_thread(httpx.get, url, trust_env=False)).text
    assert len(told) == 1
    assert f"{page[0]}:{page[1]}: Address already in use. `comfyline metrics` keeps" in told[0]
    [error] = [one for one in text.splitlines() if one.startswith("comfyline_errors_total{")]
    for label in ('kind="try-later"', 'label_client="x"', 'pipeline="office"'):
        assert label in error
    assert error.endswith(" 1.0")
    with pytest.raises(httpx.ConnectError):
        await asyncio.to_thread(httpx.get, url, trust_env=False)


def _fails() -> None:
    with span("job", {"comfyline.item": "cat"}):
        assert current_fields() == {"comfyline.item": "cat"}
        raise TryLater("https://host/cat.png?X-Amz-Signature=secret")


async def test_a_span_keeps_the_kind_of_an_error_and_none_of_its_words(
    monkeypatch: pytest.MonkeyPatch,
):
    with collector() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
        async with telemetry(TelemetrySettings(traces=True), "run-1"):
            with pytest.raises(TryLater):
                _fails()
    [job] = otlp.named("job")
    assert (job["comfyline.item"], job["error.type"]) == ("cat", "try-later")
    assert b"Amz" not in otlp.raw
    assert current_fields() == {}


async def test_what_is_not_installed_is_named_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with notes() as told:
        async with telemetry(TelemetrySettings(traces=True), "run-1"):
            tell(Note("it works"))
    assert "pip install 'comfyline[telemetry]'" in told[0]
    assert told[1:] == ["it works"]


def test_without_anybody_asking_nothing_of_it_is_imported():
    code = (
        "import sys, comfyline.cli.run, comfyline.services\n"
        "print([one for one in sys.modules if one.startswith(('opentelemetry', 'prometheus'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_an_observer_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture):
    def fails(_: Event) -> None:
        raise RuntimeError("https://host/cat.png?X-Amz-Signature=secret")

    with observed_by(fails), notes() as told:
        tell(Note("it works"))
    assert told == ["it works"]
    assert "An observer failed at Note: RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_variable_that_makes_no_sense_is_told_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "-1")
    with notes() as told:
        async with telemetry(TelemetrySettings(metrics=frozenset({"otlp"})), "run-1"):
            tell(Note("it works"))
    assert told[0].startswith("OpenTelemetry cannot be started: ")
    assert told[1:] == ["it works"]


async def test_a_collector_that_is_away_does_not_hold_a_run_up_and_is_told_once_without_headers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer f00dfeed")
    asked = TelemetrySettings(metrics=frozenset({"otlp"}), traces=True)
    async with telemetry(asked, "run-1"):
        with span("job", {}):
            tell(JobEnded(Outcome(JOB, "k", JobState.PERSISTED)))
        began = time.monotonic()
    assert time.monotonic() - began < 9
    assert "f00dfeed" not in caplog.text
    told = [re.split("[,:]", one.getMessage())[0] for one in caplog.records]
    assert told == ["OTEL_EXPORTER_OTLP_HEADERS", "Metrics or traces do not reach the collector"]
