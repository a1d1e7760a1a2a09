"""A command starts and imports only what it needs, and says which option chooses another port."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfyline.cli.main import make_app
from comfyline.errors import UsageError
from comfyline.stack.stack import inspect, stop
from tests.cli.conftest import Comfyline
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


def test_what_only_looks_starts_nothing_and_what_asks_runcomfy_the_sandbox_alone(
    home: Path, comfyline: Comfyline
) -> None:
    for command in (
        "jobs",
        f"plan {PIPELINE}",
        f"check {PIPELINE}",
        "audit --offline",
        "verify",
        "models list --local",
        "status",
        "down",
        "ledger remove",
    ):
        comfyline(*command.split())
        assert running(home) == set(), command
    for command in ("cancel --pipeline office-scenes", "resolve 3f2a9c01", "audit"):
        comfyline(*command.split())
        assert running(home) == {"sandbox"}, command


def test_ctrl_c_ends_a_run_at_once_while_it_reads_what_to_make(
    home: Path, comfyline: Comfyline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_until_interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise UsageError("It was read to its end")

    monkeypatch.setattr("comfyline.cli.run.load_pipeline", read_until_interrupted)
    ended = comfyline("run", PIPELINE)
    assert (ended.code, ended.stderr) == (130, "Interrupted.\n")
    assert running(home) == set()


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    listed, whole = make_app(listing=True), make_app()
    names = set(whole.resolved_commands())
    assert names
    for name in names:
        own = whole[name].help.partition("\n\n")[0]
        assert " ".join(own.split()) == listed[name].help, name


@pytest.mark.usefixtures("home")
def test_a_command_does_not_import_what_it_does_not_use() -> None:
    code = f"""
import sys
from comfyline.cli.main import run
for command, unused in (
    ("--help", ("prefect", "sqlalchemy", "httpx", "comfyline.config")),
    ("check {PIPELINE}", ("sqlalchemy", "prefect", "comfyline.ledger", "comfyline.runcomfy")),
    ("models list --local", ("prefect", "flows")),
    ("jobs", ("prefect", "flows", "s3fs")),
    ("plan {PIPELINE}", ("prefect", "flows")),
    ("run --help", ("prefect",)),
):
    code, loaded = run(command.split()), set(unused) & set(sys.modules)
    if code or loaded:
        sys.exit(f"{{command}}: {{code}} {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_taken_port_is_named_with_who_has_it_and_the_option(
    home: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, comfyline: Comfyline
) -> None:
    assert sandbox.process
    port = sandbox.url.rpartition(":")[2]
    monkeypatch.setenv("COMFYLINE_PREFECT_PORT", port)
    for command, service, option in (
        (["sandbox", "--port", port], "sandbox", "--port"),
        (["env"], "prefect", "COMFYLINE_PREFECT_PORT"),
    ):
        said = comfyline(*command)
        assert said.code == 69
        assert f"port {port}, requested for {service}, is used by" in said.stderr
        assert f"(pid {sandbox.process.pid})" in said.stderr
        assert option in said.stderr
    assert running(home) == set()


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_is_none_is_said(home: Path, port: str, comfyline: Comfyline) -> None:
    said = comfyline("sandbox", f"--port={port}")
    assert (said.code, f"Invalid port for the sandbox: {port}" in said.stderr) == (64, True)
    assert not home.exists()


def test_a_web_page_that_is_led_to_the_sandbox_reads_nothing(sandbox: Sandbox) -> None:
    for path in ("/sandbox/account", "/health", "/v1/models"):
        answer = sandbox.api.get(path, headers={"Host": "rebound.example"})
        assert answer.status_code == 400
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 400 " in raw.recv(1000).splitlines()[0]
