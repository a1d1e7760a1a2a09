"""`make clean` and `comfyline ledger remove`: what was paid for goes only after it was named."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import Account
from comfyline.ledger.attempts import pack
from comfyline.ledger.journal import Entry
from comfyline.services import open_journal
from tests.cli.conftest import Office, asked
from tests.conftest import ROOT

VALUED = ("ledger.sqlite3", "ledger.sqlite3-wal", "work/request/0.png")
KEPT = (
    *VALUED,
    "storage/comfyline/outputs/cat.png",
    "sandbox/sandbox.sqlite3",
    "runs/1/index.jsonl",
)
MADE_AGAIN = (
    "logs/comfyline.log",
    "thumbnails/1.jpg",
    "prefect/prefect.db",
    "prefect-client/storage/1",
)


def lay(home: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)


@pytest.fixture
def rich(office: Office) -> Office:
    """A ledger with a stored, an unfinished and a doubtful job, beside an id and a fetched file."""
    office.stored(asked("stored"), "request-1", cost=0.14)
    office.submitted(asked("running", item="dog"), "request-2")
    office.doubted(asked("doubtful", item="bird"))
    lay(office.folder / "home", ("work/request-4/0.png",))
    journal, accepted = open_journal(office.folder / "home", office.url), asked("accepted")
    entry = Entry(
        ledger="0" * 32,
        key=accepted.key,
        number=1,
        mark="mark",
        place=journal.place,
        account=Account("https://model-api.example"),
        at=datetime(2026, 3, 1, tzinfo=UTC),
        run_id="run-1",
        writer="here",
        request=pack(accepted),
    )
    journal.accepted(journal.reserve(entry), "request-3")
    return office


def test_make_clean_keeps_what_was_paid_for_and_names_it(tmp_path: Path) -> None:
    home = tmp_path / ".comfyline"
    lay(home, KEPT + MADE_AGAIN)
    lay(tmp_path, ("outputs/cat.png", ".mypy_cache/x", ".venv/x"))

    ended = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "clean"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert [name for name in KEPT if not (home / name).is_file()] == []
    assert [name for name in MADE_AGAIN if (home / name).exists()] == []
    assert not (tmp_path / ".venv").exists()
    assert (tmp_path / "outputs/cat.png").is_file()
    for name in ("outputs", ".comfyline/ledger.sqlite3", ".comfyline/work"):
        assert f"kept: {name}\n" in ended.stdout


def test_without_a_yes_a_ledger_is_not_removed_and_its_losses_are_named(rich: Office) -> None:
    ended = rich.comfyline("ledger", "remove")

    assert ended.code == 64
    assert "Nothing was removed" in ended.stderr
    assert "2 requests accepted at http" in ended.stderr
    assert ", $0.14 and 1 cost not known: asking for the same pays again" in ended.stderr
    assert "1 job paid for and not stored" in ended.stderr
    assert "1 job in doubt" in ended.stderr
    assert "1 request id not recorded yet" in ended.stderr
    assert "1 fetched file not stored" in ended.stderr
    assert len(rich.attempts()) == 3
    assert (rich.folder / "home/work/request-4/0.png").is_file()


def test_with_a_yes_the_ledger_goes_and_what_it_alone_accounts_for(rich: Office) -> None:
    ended = rich.comfyline("ledger", "remove", "--yes")

    assert ended.code == 0, ended.stderr
    assert "1 job in doubt" in ended.stderr
    left = {path.name for path in (rich.folder / "home").iterdir()}
    assert not left & {
        "ledger.sqlite3",
        "ledger.sqlite3-wal",
        "ledger.sqlite3-shm",
        "accepted.jsonl",
        "work",
    }
    assert (rich.folder / "out").is_dir(), "what is stored stays"


def test_a_ledger_that_a_run_works_with_is_not_removed(rich: Office) -> None:
    checked = asked("stored")
    rich.ledger(lambda ledger: ledger.acquire(checked.key))

    refused = rich.comfyline("ledger", "remove", "--yes")

    assert refused.code == 75
    assert "A run is using" in refused.stderr
    assert len(rich.attempts()) == 3


def test_the_ledger_of_a_database_server_is_left_to_it(
    rich: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYLINE_LEDGER_URL", "postgresql://user@127.0.0.1:9/none")
    assert rich.comfyline("ledger", "remove", "--yes").code == 64
    assert (rich.folder / "home/work/request-4/0.png").is_file()


@pytest.fixture
def make_clean_ledger(rich: Office) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The make target in a project whose environment is there."""
    venv = rich.folder / "work/.venv"
    (venv / "bin").mkdir(parents=True)
    lay(
        rich.folder / "work", ("pyproject.toml", "constraints.txt", "configs/profiles/sandbox.yaml")
    )
    shutil.copy(rich.folder / "profile.yaml", rich.folder / "work/configs/profiles/sandbox.yaml")
    command = venv / "bin/comfyline"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m comfyline.cli "$@"\n')
    command.chmod(0o755)
    lay(venv, ("bin/python", ".installed"))

    def make(*more: str, **of_run: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "-f", ROOT / "Makefile", "clean-ledger", *more],
            cwd=rich.folder / "work",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **of_run,
        )

    return make


@pytest.mark.parametrize(("answer", "goes"), [("yes", True), ("y", False)])
def test_make_asks_on_a_terminal(
    rich: Office,
    make_clean_ledger: Callable[..., subprocess.CompletedProcess[str]],
    answer: str,
    *,
    goes: bool,
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    ended = make_clean_ledger(stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert "1 job in doubt" in ended.stderr
    assert (ended.returncode == 0) is goes, ended.stderr
    assert (rich.folder / "home/ledger.sqlite3").exists() is not goes


def test_make_takes_confirm_yes_and_nothing_else(
    rich: Office, make_clean_ledger: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    refused = make_clean_ledger("CONFIRM=maybe", stdin=subprocess.DEVNULL)
    assert refused.returncode != 0
    assert (rich.folder / "home/ledger.sqlite3").exists()
    ended = make_clean_ledger("CONFIRM=yes", stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert "1 job in doubt" in ended.stderr
    assert not (rich.folder / "home/ledger.sqlite3").exists()
