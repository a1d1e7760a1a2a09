"""What the process environment says, and what is looked at without starting anything."""

import asyncio
from pathlib import Path

import pytest

from comfyline.config import load
from comfyline.errors import ComfylineError, TokenRejected, UsageError
from tests.settings.conftest import LOCAL, REMOTE, TOKEN, Resolve, Write

PORTS = ("COMFYLINE_PREFECT_PORT", "COMFYLINE_STORAGE_PORT", "COMFYLINE_SANDBOX_PORT")


def test_a_port_that_is_asked_for_is_binding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PORTS[0], " ")
    assert load.asked_ports() == {}
    for name, port in zip(PORTS, ("1", " 8080 ", "65535"), strict=True):
        monkeypatch.setenv(name, port)
    assert load.asked_ports() == {"prefect": 1, "storage": 8080, "sandbox": 65535}


@pytest.mark.parametrize("written", ["abc", "0", "65536", "-1", "80.0", "8_0", "٨٠", "9" * 5000])
def test_a_port_that_is_none_is_told_and_not_ignored(written: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PORTS[1], written)
    with pytest.raises(UsageError, match=f"{PORTS[1]} is .*not a port"):
        load.asked_ports()


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"COMFYLINE_SANDBOX_PORT": "abc"}, UsageError),
        ({"RUNCOMFY_BASE_URL": "https://other.example"}, TokenRejected),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_started(
    environ: dict[str, str], error: type[ComfylineError], profile: Write, bare: Path
):
    profile(LOCAL, environ)
    with pytest.raises(error):
        asyncio.run(load.prepare("mine", print))
    assert [path.name for path in bare.iterdir()] == ["configs"]


def test_looking_starts_nothing(profile: Write, bare: Path):
    profile(LOCAL)
    settings = load.look("mine")
    assert settings.runcomfy.base_url == settings.storage.endpoint_url == "http://127.0.0.1:9"
    assert settings.runcomfy.patience == 0
    assert [path.name for path in bare.iterdir()] == ["configs"]


@pytest.mark.parametrize(
    ("environ", "metrics", "traces"),
    [
        ({}, set(), set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, {"otlp"}, {"otlp"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/v1/traces"}, set(), {"otlp"}),
        ({"OTEL_METRICS_EXPORTER": "otlp, prometheus"}, {"otlp", "prometheus"}, set()),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
            {"otlp"},
            set(),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"},
            set(),
            set(),
        ),
    ],
)
def test_telemetry_goes_where_the_usual_variables_say(
    environ: dict[str, str], metrics: set[str], traces: set[str], profile: Write
):
    asked = profile(f"{REMOTE}telemetry: {{labels: [client]}}\n", environ).telemetry()
    assert (set(asked.metrics), asked.traces, asked.mistake) == (metrics, bool(traces), "")
    assert asked.is_on == bool(metrics or traces)


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_METRICS_EXPORTER": "console"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "many"},
    ],
)
def test_telemetry_that_cannot_be_had_is_named_and_stops_nothing(
    environ: dict[str, str], resolved: Resolve
):
    asked = resolved(REMOTE, TOKEN | environ).telemetry
    assert not asked.is_on
    assert list(environ)[-1] in asked.mistake


def test_a_log_format_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert not load.logs_are_json()
    monkeypatch.setenv("COMFYLINE_LOG_FORMAT", "JSON")
    assert load.logs_are_json()
    monkeypatch.setenv("COMFYLINE_LOG_FORMAT", "yaml")
    with pytest.raises(UsageError, match="json or text"):
        load.logs_are_json()
