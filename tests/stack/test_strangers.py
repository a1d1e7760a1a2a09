"""Who may not come in: another user of the machine, a web page, whoever has no password."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import urllib.parse
from pathlib import Path
from unittest.mock import Mock

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from comfyline.errors import UsageError
from comfyline.stack.home import Layout, make_auth_string, private_folder
from comfyline.stack.ports import remember_port
from comfyline.stack.process import Launch, read_record, start
from comfyline.stack.services import basic_auth
from comfyline.stack.stack import StackAddresses, ensure, stop
from flows.session import read_secret_block
from tests.conftest import ROOT, free_port, prefect_home, prefect_variables
from tests.forking import clean_environment

NOBODY = 65534
PROFILE = """\
runcomfy: {base_url: "http://127.0.0.1:9", token_block: rc-token}
storage: {uploads: "s3://bucket/uploads", endpoint_url: "http://127.0.0.1:9"}
"""
OPEN_SERVER = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")
    do_POST = do_GET
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
HOSTS = (None, "rebound.example:4270", "x/api/health?")
SOCKETS = (
    "events/in",
    "events/out",
    "logs/out",
    "task_runs/subscriptions/scheduled",
    "work_pools/any/workers/connect",
)


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


def open_server(port: int) -> Launch:
    """What answers whoever comes, as a Prefect server did before it had a password."""
    return Launch((sys.executable, "-c", OPEN_SERVER, str(port)), {})


async def test_a_server_without_a_password_gives_no_secret_and_is_started_anew_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, port, told = Layout(tmp_path / "home"), free_port(), list[str]()
    layout.home.mkdir()

    def protected(_: str, layout: Layout, port: int, __: object) -> Launch:
        make_auth_string(layout.prefect_auth_string)
        return open_server(port)

    monkeypatch.setattr("comfyline.stack.stack.launch", protected)
    older, _ = start(layout, "prefect", port, open_server(port))
    remember_port(layout.ports, "prefect", port)
    try:
        while not older.listens():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
        with (
            temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
            pytest.raises(UsageError, match=r"asks for no password.*`rc-token`") as refused,
        ):
            await read_secret_block("rc-token")
        found = await ensure(layout.home, ("prefect",), tell=told.append)
    finally:
        await stop(layout.home)
    assert "PREFECT_SERVER_API_AUTH_STRING" in str(refused.value.hint)
    assert "prefect: runs without the password of this home; restarting it" in told
    assert not older.is_alive()
    assert found.prefect_api_url == f"http://127.0.0.1:{port}/api"


def test_the_page_is_there_and_listens_to_this_machine_alone(stack: StackAddresses) -> None:
    auth = basic_auth(str(stack.prefect_auth_string))
    with httpx.Client(trust_env=False, auth=auth, follow_redirects=True) as client:
        page = client.get(f"{stack.prefect_ui_url}/")
        settings = client.get(f"{stack.prefect_ui_url}/ui-settings")
    assert "text/html" in page.headers["content-type"]
    assert settings.json()["api_url"] == stack.prefect_api_url
    record = read_record(Layout(prefect_home()).record("prefect"))
    assert record is not None
    open_at = psutil.Process(record.pid).net_connections("inet")
    listening = {one.laddr[0] for one in open_at if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_nothing_in_a_home_is_anybody_elses(stack: StackAddresses, stack_home: Path) -> None:
    assert stack.storage_credentials
    # The homes are closed, and so is in them what a service keeps; runs of other tests share them.
    assert {stat.S_IMODE(one.stat().st_mode) for one in (prefect_home(), stack_home)} == {0o700}
    kept = [open_modes(home / "stack") for home in (prefect_home(), stack_home)]
    pages = open_modes(prefect_home() / "prefect")
    assert [*kept, {name for name in pages if not name.startswith("ui/")}] == [{}, {}, set()]
    names = {path.name for path in prefect_home().rglob("*")}
    assert {"prefect.db", "prefect.db-wal", "prefect.log", "prefect-auth-string"} <= names
    if os.geteuid() == 0:
        beside = prefect_home().with_name("beside")
        beside.write_text("for all")
        beside.chmod(0o644)
        assert as_nobody("cat", str(beside)).stdout == b"for all"
        for command, path in (
            ("ls", prefect_home()),
            ("cat", prefect_home() / "prefect/prefect.db"),
        ):
            read = as_nobody(command, str(path))
            assert read.returncode != 0
            assert b"Permission denied" in read.stderr


def test_the_password_is_in_no_log_command_line_or_repr(stack: StackAddresses) -> None:
    password = str(stack.prefect_auth_string).partition(":")[2]
    assert len(password) >= 32
    logs = "".join(path.read_text() for path in (prefect_home() / "logs").iterdir())
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
async def test_no_socket_listens_to_a_stranger(stack: StackAddresses, path: str) -> None:
    address = urllib.parse.urlsplit(str(stack.prefect_api_url))._replace(scheme="ws").geturl()
    with pytest.raises(InvalidStatus):
        await connect(f"{address}/{path}")
    async with connect(f"{address}/{path}", subprotocols=[Subprotocol("prefect")]) as socket:
        await socket.send(json.dumps({"type": "auth", "token": "comfyline:guessed"}))
        with pytest.raises(ConnectionClosedError) as closed:
            await asyncio.wait_for(socket.recv(), 30)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("with_password", [True, False])
def test_prefects_own_commands_come_in_with_what_env_prints(
    stack: StackAddresses, tmp_path: Path, *, with_password: bool
) -> None:
    variables = prefect_variables(stack) | {"PREFECT_HOME": str(tmp_path)}
    if not with_password:
        del variables["PREFECT_API_AUTH_STRING"]
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "variable", "ls"],
        env=clean_environment() | variables,
        capture_output=True,
        check=False,
    )
    assert (asked.returncode == 0) is with_password, asked.stderr


@pytest.mark.parametrize("own", [False, True])
def test_a_run_without_the_password_is_told_what_to_do(
    stack: StackAddresses, tmp_path: Path, *, own: bool
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "mine.yaml").write_text(PROFILE)
    here, there = Layout(tmp_path / "home"), Layout(prefect_home())
    make_auth_string(here.prefect_auth_string)
    shutil.copy(there.record("prefect"), here.record("prefect"))
    server = {} if own else {"PREFECT_API_URL": str(stack.prefect_api_url)}
    home = tmp_path / "home" if own else tmp_path / ".comfyline"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "comfyline.cli", "run"),
            *("configs/pipelines/office-scenes.yaml", "--profile", "mine.yaml", "--json"),
        ],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(ROOT), "COMFYLINE_HOME": str(home)} | server,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    [error] = json.loads(ended.stdout)["errors"]
    assert ended.returncode == 69, ended.stderr
    assert "rejects the credentials (401)" in error["message"]
    assert ("comfyline down" if own else "PREFECT_API_AUTH_STRING") in error["hint"]


async def test_no_server_is_started_in_a_home_that_cannot_be_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made private"):
        await ensure(tmp_path / "file/home", ("storage",))


async def test_who_starts_no_server_may_have_a_home_that_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = Mock(side_effect=PermissionError(1, "Operation not permitted"))
    monkeypatch.setattr("comfyline.stack.stack.private_folder", closing)
    assert await ensure(tmp_path, ()) == StackAddresses()
    assert closing.called


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
