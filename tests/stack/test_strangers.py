"""Who may not come in: another user of the machine, a web page, whoever has no password."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from comfyline.errors import UsageError
from comfyline.stack.home import Layout, private_folder
from comfyline.stack.ports import remember_port
from comfyline.stack.process import Launch, ServerRecord, read_record, start
from comfyline.stack.services import basic_auth, prefect_launch
from comfyline.stack.stack import StackAddresses, ensure, inspect, stop
from tests.conftest import ROOT, free_port, prefect_variables
from tests.ended import Ended
from tests.forking import clean_environment

NOBODY = 65534
PROFILE = """\
runcomfy: {base_url: "http://127.0.0.1:9", token_block: rc-token}
storage: {uploads: "s3://bucket/uploads", endpoint_url: "http://127.0.0.1:9"}
"""
HOSTS = (None, "rebound.example", "rebound.example:4270", "x/api/health?")
SOCKETS = (
    "events/in",
    "events/out",
    "logs/out",
    "task_runs/subscriptions/scheduled",
    "work_pools/any/workers/connect",
)


@dataclass(frozen=True)
class Older:
    """A home as an older version left it: open to all, its Prefect server without a password."""

    home: Path
    server: ServerRecord
    refused: Ended


def open_modes(home: Path) -> dict[str, str]:
    """What below a home says in its mode that others may use it."""
    paths = [path for path in (home, *home.rglob("*")) if not path.is_symlink()]
    modes = {str(path.relative_to(home)): path.stat().st_mode for path in paths}
    return {name: oct(mode) for name, mode in modes.items() if mode & (stat.S_IRWXG | stat.S_IRWXO)}


def as_nobody(*command: str) -> subprocess.CompletedProcess[bytes]:
    """A command as another user of this machine; only root may become one."""
    return subprocess.run(
        command,
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def reachable() -> Iterator[Path]:
    """A folder that every user of the machine may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="comfyline-strangers-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def older(reachable: Path) -> Iterator[Older]:
    """The older home, and what a run said of a Secret block that its server keeps."""
    layout = Layout(reachable / "home")
    layout.prefect.mkdir(parents=True, mode=0o755)
    layout.stack.mkdir()
    ledger = layout.home / "ledger.sqlite3"
    ledger.write_bytes(b"")
    for path in (layout.home, layout.prefect, ledger):
        path.chmod(0o755)
    port = free_port()
    now = prefect_launch(layout, port, os.environ, "of:no-use")
    environment = {k: v for k, v in now.environment.items() if "AUTH" not in k}
    server, _ = start(layout, "prefect", port, Launch(now.command, environment))
    remember_port(layout.ports, "prefect", port)
    try:
        asyncio.run(_until_it_answers(server))
        api = f"http://127.0.0.1:{port}/api"
        kept = {"name": "kept", "value": "since before"}
        httpx.post(f"{api}/variables/", json=kept, trust_env=False).raise_for_status()
        layout.prefect.joinpath("prefect.db").chmod(0o644)
        yield Older(layout.home, server, _run_with_block(reachable / "project", api))
    finally:
        running = read_record(layout.record("prefect"))
        assert "prefect" in asyncio.run(stop(layout.home))
        assert running is None or not running.is_alive()


async def _until_it_answers(server: ServerRecord) -> None:
    async with asyncio.timeout(120), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"http://127.0.0.1:{server.port}/api/health")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


def _run_with_block(project: Path, api: str) -> Ended:
    """A run whose token is in a block, from a home and a shell that know no password."""
    shutil.copytree(ROOT / "configs", project / "configs", dirs_exist_ok=True)
    (project / "mine.yaml").write_text(PROFILE)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "comfyline.cli", "run"),
            *("configs/pipelines/office-scenes.yaml", "--profile", "mine.yaml", "--json"),
        ],
        cwd=project,
        env=clean_environment() | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def stack(older: Older, told: list[str]) -> StackAddresses:
    """The same home after today's command has come across it."""
    return asyncio.run(ensure(older.home, ("prefect", "storage"), tell=told.append))


def test_no_secret_is_taken_from_a_prefect_server_that_asks_nobody(older: Older) -> None:
    [error] = older.refused.json["errors"]
    assert older.refused.code == 64, older.refused.stderr
    assert "asks for no password" in error["message"]
    assert "`rc-token`" in error["message"]
    assert "PREFECT_SERVER_API_AUTH_STRING" in error["hint"]


def test_a_server_without_a_password_is_started_anew_with_one_and_loses_nothing(
    older: Older, stack: StackAddresses, told: list[str]
) -> None:
    assert "prefect: runs without the password of this home; restarting it" in told
    assert not older.server.is_alive()
    assert stack.prefect_api_url == f"http://127.0.0.1:{older.server.port}/api"
    kept = httpx.get(
        f"{stack.prefect_api_url}/variables/name/kept",
        auth=basic_auth(str(stack.prefect_auth_string)),
        trust_env=False,
    )
    assert kept.json()["value"] == "since before"
    states = {one.name: one.state for one in asyncio.run(inspect(older.home))}
    assert states["prefect"] == "running"


def test_the_page_is_there_and_listens_to_this_machine_alone(
    older: Older, stack: StackAddresses
) -> None:
    auth = basic_auth(str(stack.prefect_auth_string))
    with httpx.Client(trust_env=False, auth=auth, follow_redirects=True) as client:
        page = client.get(f"{stack.prefect_ui_url}/")
        settings = client.get(f"{stack.prefect_ui_url}/ui-settings")
    assert "text/html" in page.headers["content-type"]
    assert settings.json()["api_url"] == stack.prefect_api_url
    record = read_record(Layout(older.home).record("prefect"))
    assert record is not None
    open_at = psutil.Process(record.pid).net_connections("inet")
    listening = {one.laddr[0] for one in open_at if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_nothing_in_a_home_is_anybody_elses(
    older: Older, stack: StackAddresses, reachable: Path
) -> None:
    assert stack.storage_credentials
    assert open_modes(older.home) == {}
    names = {path.name for path in older.home.rglob("*")}
    assert {"prefect.db", "prefect.db-wal", "prefect.log", "prefect-auth-string"} <= names
    if os.geteuid() == 0:
        beside = reachable / "beside"
        beside.write_text("for all")
        beside.chmod(0o644)
        assert as_nobody("cat", str(beside)).stdout == b"for all"
        for path in (older.home, older.home / "prefect/prefect.db", older.home / "ledger.sqlite3"):
            read = as_nobody("cat" if path.is_file() else "ls", str(path))
            assert read.returncode != 0
            assert b"Permission denied" in read.stderr


def test_the_password_is_in_no_log_command_line_or_repr(
    older: Older, stack: StackAddresses
) -> None:
    password = str(stack.prefect_auth_string).partition(":")[2]
    assert len(password) >= 32
    logs = "".join(path.read_text() for path in (older.home / "logs").iterdir())
    processes = psutil.process_iter(["cmdline"])
    commands = " ".join(" ".join(one.info["cmdline"] or []) for one in processes)
    assert password not in logs + commands + repr(stack)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("auth", [None, ("comfyline", "guessed")])
def test_nobody_is_answered_without_the_password_under_whatever_name(
    stack: StackAddresses, host: str | None, auth: tuple[str, str] | None
) -> None:
    calls = (
        ("GET", "version"),
        ("GET", "admin/version"),
        ("GET", "admin/settings"),
        ("POST", "admin/database/clear"),
        ("GET", "csrf-token?client=any"),
        ("POST", "block_documents/filter"),
        ("POST", "flow_runs/filter"),
        ("POST", "deployments/filter"),
        ("POST", "health"),
        ("GET", "variables/name/health"),
    )
    named = {"Host": host} if host else {}
    with httpx.Client(base_url=f"{stack.prefect_api_url}/", trust_env=False, auth=auth) as client:
        answers = {
            call: client.request(call[0], call[1], headers=named).status_code for call in calls
        }
    assert answers == dict.fromkeys(calls, 401)


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("token", [None, "comfyline:guessed"])
async def test_no_socket_listens_to_a_stranger(
    stack: StackAddresses, path: str, token: str | None
) -> None:
    address = urllib.parse.urlsplit(str(stack.prefect_api_url))._replace(scheme="ws").geturl()
    with pytest.raises(InvalidStatus):
        await connect(f"{address}/{path}")
    async with connect(f"{address}/{path}", subprotocols=[Subprotocol("prefect")]) as socket:
        await socket.send(json.dumps({"type": "auth", "token": token}))
        with pytest.raises(ConnectionClosedError) as closed:
            await asyncio.wait_for(socket.recv(), 30)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1008


def test_prefects_own_commands_come_in_with_what_env_prints(
    older: Older, stack: StackAddresses
) -> None:
    asks = [sys.executable, "-P", "-m", "prefect", "variable", "get", "kept"]
    elsewhere = clean_environment() | {"PREFECT_HOME": str(older.home / "prefect-client")}
    variables = prefect_variables(stack)
    came_in = subprocess.run(
        asks, env=elsewhere | variables, capture_output=True, text=True, check=False
    )
    del variables["PREFECT_API_AUTH_STRING"]
    refused = subprocess.run(
        asks, env=elsewhere | variables, capture_output=True, text=True, check=False
    )
    assert "since before" in came_in.stdout, came_in.stderr
    assert refused.returncode != 0


def test_a_run_without_the_password_is_told_what_to_set(
    stack: StackAddresses, reachable: Path
) -> None:
    refused = _run_with_block(reachable / "project", str(stack.prefect_api_url))
    [error] = refused.json["errors"]
    assert refused.code == 69, refused.stderr
    assert "rejects the credentials (401)" in error["message"]
    assert "PREFECT_API_AUTH_STRING" in error["hint"]


async def test_no_server_is_started_in_a_home_that_cannot_be_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made private"):
        await ensure(tmp_path / "file/home", ("storage",))


def test_a_home_is_closed_with_all_that_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    home, beside = tmp_path / "home", tmp_path / "beside"
    (home / "logs").mkdir(parents=True)
    (home / "logs/a.log").write_text("")
    beside.write_text("")
    (home / "link").symlink_to(beside)
    for path in (home, home / "logs"):
        path.chmod(0o755)
    for path in (home / "logs/a.log", beside):
        path.chmod(0o664)

    private_folder(home)
    private_folder(tmp_path / "above/made")

    assert open_modes(home) == open_modes(tmp_path / "above/made") == {}
    assert (home / "logs/a.log").stat().st_mode & 0o777 == 0o600
    assert beside.stat().st_mode & 0o777 == 0o664
