"""A command starts only what it needs, and says which option chooses another port."""

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfyline.cli.main import run
from comfyline.stack.stack import inspect, stop
from tests.conftest import ROOT, Sandbox

PIPELINE = "configs/pipelines/office-scenes.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of a project with the sandbox's profile, in which nothing runs."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for name in ("COMFYLINE_HOME", "COMFYLINE_LEDGER_URL", "RUNCOMFY_BASE_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / ".comfyline"
    asyncio.run(stop(tmp_path / ".comfyline"))


def running(home: Path) -> set[str]:
    return {one.name for one in asyncio.run(inspect(home)) if one.state != "stopped"}


@pytest.mark.parametrize(
    "command",
    [
        ["jobs"],
        ["plan", PIPELINE],
        ["check", PIPELINE],
        ["audit", "--offline"],
        ["verify"],
        ["models", "list", "--local"],
        ["status"],
        ["down"],
        ["ledger", "remove"],
    ],
    ids=" ".join,
)
def test_what_only_looks_starts_nothing(home: Path, command: list[str]) -> None:
    run(command)
    assert running(home) == set()


@pytest.mark.parametrize(
    "command",
    [["cancel", "--pipeline", "office-scenes"], ["resolve", "3f2a9c01"], ["audit"]],
    ids=" ".join,
)
def test_what_asks_runcomfy_alone_starts_neither_storage_nor_prefect(
    home: Path, command: list[str]
) -> None:
    run(command)
    assert running(home) == {"sandbox"}


@pytest.mark.usefixtures("home")
def test_check_loads_neither_the_ledger_nor_the_client() -> None:
    code = f"""
import sys
from comfyline.cli.main import run
code = run(["check", "{PIPELINE}"])
loaded = {{"sqlalchemy", "prefect", "comfyline.ledger", "comfyline.runcomfy"}} & set(sys.modules)
sys.exit(f"{{code}} {{loaded}}" if code or loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_taken_port_is_named_with_who_has_it_and_the_option(
    home: Path,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sandbox.process
    port = sandbox.url.rpartition(":")[2]
    assert run(["sandbox", "--port", port]) == 69
    said = capsys.readouterr().err
    assert f"port {port}, requested for sandbox, is used by" in said
    assert f"(pid {sandbox.process.pid})" in said
    assert "--port" in said

    monkeypatch.setenv("COMFYLINE_PREFECT_PORT", port)
    assert run(["env"]) == 69
    said = capsys.readouterr().err
    assert f"port {port}, requested for prefect, is used by" in said
    assert "COMFYLINE_PREFECT_PORT" in said
    assert running(home) == set()


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999"])
def test_a_port_that_is_none_is_said(
    home: Path, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sandbox", f"--port={port}"]) == 64
    assert f"Invalid port for the sandbox: {port}" in capsys.readouterr().err
    assert not home.exists()


def test_a_web_page_that_is_led_to_the_sandbox_reads_nothing(sandbox: Sandbox) -> None:
    for path in ("/sandbox/account", "/health", "/v1/models"):
        answer = sandbox.api.get(path, headers={"Host": "rebound.example"})
        assert answer.status_code == 400
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 400 " in raw.recv(1000).splitlines()[0]
