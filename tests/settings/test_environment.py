"""The edge: what the process environment says, and what is looked at without starting anything."""

from pathlib import Path

import pytest

from comfyline.config import environment
from comfyline.config.settings import Secret
from comfyline.errors import TokenRejected, UsageError
from tests.settings.conftest import LOCAL, REMOTE

PORTS = ("COMFYLINE_PREFECT_PORT", "COMFYLINE_STORAGE_PORT", "COMFYLINE_SANDBOX_PORT")


@pytest.fixture(autouse=True)
def profiles(bare: Path) -> None:
    """A working directory with two profiles."""
    folder = bare / "configs" / "profiles"
    folder.mkdir(parents=True)
    (folder / "local.yaml").write_text(LOCAL)
    (folder / "remote.yaml").write_text(REMOTE)


def nothing_was_made(directory: Path) -> bool:
    return [path.name for path in directory.iterdir()] == ["configs"]


def test_a_port_that_is_asked_for_is_binding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PORTS[0], " ")
    assert environment.asked_ports() == {}
    for name, port in zip(PORTS, ("1", " 8080 ", "65535"), strict=True):
        monkeypatch.setenv(name, port)
    assert environment.asked_ports() == {"prefect": 1, "storage": 8080, "sandbox": 65535}


@pytest.mark.parametrize("written", ["abc", "0", "65536", "-1", "80.0", "8_0", "٨٠", "9" * 5000])
def test_a_port_that_is_none_is_told_and_not_ignored(written: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PORTS[1], written)
    with pytest.raises(UsageError, match=f"{PORTS[1]} is .*not a port") as error:
        environment.asked_ports()
    assert error.value.exit_code == 64


async def test_a_wrong_port_is_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COMFYLINE_SANDBOX_PORT", "abc")
    with pytest.raises(UsageError):
        await environment.prepare("local", print)
    assert nothing_was_made(tmp_path)


async def test_a_missing_token_is_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUNCOMFY_BASE_URL", "https://other.example")
    with pytest.raises(TokenRejected):
        environment.check_token("local")
    with pytest.raises(TokenRejected):
        await environment.prepare("local", print)
    assert nothing_was_made(tmp_path)


def test_looking_starts_nothing_and_asks_nobody_else(tmp_path: Path):
    settings = environment.look("local")
    assert settings.runcomfy.base_url == settings.storage.endpoint_url == "http://127.0.0.1:9"
    # Keys of its own: those of the machine must not be tried at an address that is not theirs.
    assert settings.storage.key
    assert settings.storage.secret
    assert settings.runcomfy.patience == 0
    assert nothing_was_made(tmp_path)


def test_looking_needs_the_token_that_the_run_would_need(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TokenRejected):
        environment.look("remote")
    monkeypatch.setenv("RUNCOMFY_TOKEN", "mine")
    assert environment.look("remote").runcomfy.token == Secret("mine")


def test_what_a_profile_needs_is_known_without_its_token():
    assert environment.needed_services("local") == ("storage", "sandbox")
    assert environment.needed_services("remote") == ()


def test_the_ledger_is_found_without_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert environment.home() == tmp_path / ".comfyline"
    url = environment.profile_ledger_url("remote")
    assert url == f"sqlite:///{tmp_path}/.comfyline/ledger.sqlite3"
    monkeypatch.setenv("COMFYLINE_HOME", "state")
    assert environment.profile_ledger_url("remote") == f"sqlite:///{tmp_path}/state/ledger.sqlite3"
