"""The stack as it really runs: server processes in homes of their own."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast
from unittest.mock import AsyncMock

import httpx
import psutil
import pytest

from comfyline.errors import Unreachable, UsageError
from comfyline.stack.home import Layout
from comfyline.stack.process import Launch, birth_of, read_record
from comfyline.stack.services import SPECS, Service, ServiceName, launch
from comfyline.stack.stack import StackAddresses, addresses, ensure, inspect, stop

MakeHome = Callable[[str], Path]


@pytest.fixture
async def make_home(tmp_path: Path) -> AsyncIterator[MakeHome]:
    """Makes homes whose processes end with the test."""
    homes: list[Path] = []

    def make(name: str) -> Path:
        homes.append(tmp_path / name)
        return homes[-1]

    yield make
    for home in homes:
        await stop(home)


@pytest.fixture
def home(make_home: MakeHome) -> Path:
    return make_home("home")


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate(b"\n")


async def storage(home: Path, **options: object) -> StackAddresses:
    return await ensure(home, ("storage",), **options)  # type: ignore[arg-type]


def pid_of(home: Path) -> int:
    record = read_record(Layout(home).record("storage"))
    assert record is not None
    return record.pid


def port_of(found: StackAddresses) -> int:
    port = urllib.parse.urlsplit(found.storage_endpoint or "").port
    assert port is not None
    return port


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (a process tells nobody that it has ended)
            await asyncio.sleep(0.02)


async def test_two_starts_at_the_same_moment_start_one_process_and_a_third_does_nothing(
    home: Path,
) -> None:
    told: list[str] = []
    first, second = await asyncio.gather(storage(home), storage(home))
    pid = pid_of(home)
    assert await storage(home, tell=told.append) == first == second
    assert told == []
    assert await storage(home, ports={"storage": 4399}, tell=told.append) == first
    assert "not at the port 4399" in told[0]
    assert pid_of(home) == pid
    command = str(Layout(home).storage)
    servers = [p for p in psutil.process_iter(["cmdline"]) if command in (p.info["cmdline"] or [])]
    assert len(servers) == 1


async def test_a_server_outlives_its_session_keeps_its_keys_and_serves_this_machine_alone(
    home: Path,
) -> None:
    found = await storage(home)
    process, pair = psutil.Process(pid_of(home)), found.storage_credentials
    assert os.getsid(process.pid) == process.pid
    listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {connection.laddr[0] for connection in listening} == {"127.0.0.1"}
    assert pair is not None
    assert min(len(pair.access_key_id), len(pair.secret_access_key)) >= 17
    assert Layout(home).credentials.stat().st_mode & 0o777 == 0o600
    async with httpx.AsyncClient(trust_env=False) as client:
        refused = await client.get(f"{found.storage_endpoint}/comfyline/a.png")
    assert refused.status_code in {400, 403}
    shown = Layout(home).log("storage").read_text() + " ".join(process.cmdline())
    assert pair.access_key_id not in shown
    assert pair.secret_access_key not in shown + repr(found)


async def test_stop_ends_what_start_started_and_says_so(home: Path) -> None:
    await storage(home)
    pid = pid_of(home)
    assert await stop(home) == ["storage"]
    assert birth_of(pid) is None
    assert {status.state for status in await inspect(home)} == {"stopped"}
    assert addresses(home) == StackAddresses()
    assert await stop(home) == []
    assert await stop(home / "never") == []
    assert not (home / "never").exists()


async def test_a_stale_pid_file_is_replaced_and_the_foreign_process_lives_on(
    home: Path, foreign: subprocess.Popen[bytes]
) -> None:
    await storage(home)
    await stop(home)
    record = Layout(home).record("storage")
    stale = {
        "service": "storage",
        "pid": foreign.pid,
        "birth": "of another process that had this number",
        "port": 4271,
        "started_at": "2026-01-01T00:00:00+00:00",
        "command": "rclone",
    }
    record.write_text(json.dumps(stale))
    assert [s.state for s in await inspect(home) if s.name == "storage"] == ["stale"]
    assert await stop(home) == []
    assert not record.exists()
    record.write_text(json.dumps(stale))
    await storage(home)
    assert pid_of(home) != foreign.pid
    assert await stop(home) == ["storage"]
    assert foreign.poll() is None


async def test_after_kill_9_it_starts_again_at_the_same_port(home: Path) -> None:
    first = await storage(home)
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: birth_of(pid) is None)
    assert [s.state for s in await inspect(home) if s.name == "storage"] == ["stale"]
    assert await storage(home) == first
    assert pid_of(home) != pid


async def test_a_taken_port_that_nobody_asked_for_is_replaced_by_another(home: Path) -> None:
    port = port_of(await storage(home))
    await stop(home)
    with socket.create_server(("127.0.0.1", port)):
        assert port_of(await storage(home)) != port


async def test_a_taken_port_that_was_asked_for_is_an_error_that_names_it_and_its_holder(
    home: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unreachable) as error:
            await storage(home, ports={"storage": port})
    assert str(port) in str(error.value)
    assert f"(pid {os.getpid()})" in str(error.value)
    assert "COMFYLINE_STORAGE_PORT" in str(error.value)
    assert error.value.exit_code == 69
    assert addresses(home) == StackAddresses()


async def test_a_port_that_is_lost_between_look_and_start_is_tried_once_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[socket.socket] = []

    def take_the_port_first(name: ServiceName, layout: Layout, port: int, _: object) -> Launch:
        if not taken:
            taken.append(socket.create_server(("127.0.0.1", port)))
        return launch(name, layout, port)

    monkeypatch.setattr("comfyline.stack.stack.launch", take_the_port_first)
    told: list[str] = []
    found = await storage(home, tell=told.append)
    with taken[0]:
        assert port_of(found) != taken[0].getsockname()[1]
    assert any("in the meantime" in line for line in told)


async def test_a_server_that_never_gets_its_port_is_given_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = Launch((sys.executable, "-c", "raise SystemExit('Address already in use')"), {})
    monkeypatch.setattr("comfyline.stack.stack.launch", lambda *_: in_use)
    with pytest.raises(Unreachable, match="Address already in use"):
        await storage(home)


async def test_two_homes_run_at_once_and_stop_apart(make_home: MakeHome) -> None:
    one, two = make_home("one"), make_home("two")
    first, second = await asyncio.gather(storage(one), storage(two))
    assert first.storage_endpoint != second.storage_endpoint
    assert first.storage_credentials != second.storage_credentials
    await stop(one)
    assert addresses(two) == second


async def test_one_port_for_two_services_is_a_usage_error(home: Path) -> None:
    with pytest.raises(UsageError):
        await storage(home, ports={"storage": 4300, "prefect": 4300})


async def test_a_server_that_ends_at_once_is_named_with_its_log_and_the_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_sandbox(name: ServiceName, layout: Layout, port: int, _: object) -> Launch:
        if name == "sandbox":
            return Launch((sys.executable, "-c", "raise SystemExit('no such model')"), {})
        return launch(name, layout, port)

    monkeypatch.setattr("comfyline.stack.stack.launch", broken_sandbox)
    with pytest.raises(Unreachable) as error:
        await ensure(home, ("storage", "sandbox"))
    assert "no such model" in str(error.value)
    assert str(Layout(home).log("sandbox")) in str(error.value)
    assert addresses(home).storage_endpoint is not None


async def test_a_server_that_lives_and_does_not_answer_is_named_with_the_end_of_its_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage(home)
    pid = pid_of(home)
    impatient = dataclasses.replace(SPECS["storage"], start_limit=0.3)
    monkeypatch.setitem(cast("dict[str, Service]", SPECS), "storage", impatient)
    for module in ("services", "stack"):
        monkeypatch.setattr(f"comfyline.stack.{module}.is_well", AsyncMock(return_value=False))
    with pytest.raises(Unreachable) as error:
        await storage(home)
    assert f"is running (pid {pid}) but does not answer" in str(error.value)
    assert "Starting s3 server" in str(error.value)
    assert [s.state for s in await inspect(home) if s.name == "storage"] == ["unhealthy"]


async def test_a_dead_starter_leaves_no_lock_and_what_it_started_is_found(home: Path) -> None:
    """A `kill -9` in the middle of a start: the next one finishes it, with the same process."""
    program = (
        "import asyncio, os, pathlib; from comfyline.stack import stack;"
        "stack.wait_until_well = lambda *_: os.kill(os.getpid(), 9);"
        f"asyncio.run(stack.ensure(pathlib.Path({str(home)!r}), ('storage',)))"
    )
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await starter.wait() == -signal.SIGKILL
    pid = pid_of(home)
    await storage(home)
    assert pid_of(home) == pid


async def test_a_process_that_will_not_end_is_killed_and_its_children_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    server = Launch((sys.executable, "-c", stubborn), {})
    impatient = dataclasses.replace(SPECS["storage"], start_limit=0.5)
    monkeypatch.setattr("comfyline.stack.process.STOP_LIMIT", 0.3)
    monkeypatch.setitem(cast("dict[str, Service]", SPECS), "storage", impatient)
    monkeypatch.setattr("comfyline.stack.stack.launch", lambda *_: server)
    with pytest.raises(Unreachable):
        await storage(home)
    process = psutil.Process(pid_of(home))
    await until(lambda: bool(process.children()))
    (child,) = process.children()
    assert await stop(home) == ["storage"]
    assert birth_of(process.pid) is None
    assert birth_of(child.pid) is None
