"""What the process environment says, and what is looked at without starting anything."""

import asyncio
from pathlib import Path

import pytest

from comfyline.config import load
from comfyline.errors import ComfylineError, TokenRejected, UsageError
from tests.settings.conftest import LOCAL, Write

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
