"""`make clean` and `comfyline ledger remove`: what was paid for goes only after it was named."""

import io
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comfyline.config.account import Account
from comfyline.ledger.attempts import pack
from comfyline.ledger.journal import Entry
from comfyline.services import open_journal
from tests.cli.conftest import Office, asked
from tests.conftest import ROOT

KEPT = (
    "ledger.sqlite3",
    "ledger.sqlite3-wal",
    "work/request/0.png",
    "storage/comfyline/outputs/cat.png",
    "sandbox/sandbox.sqlite3",
    "runs/1/index.jsonl",
)
MADE_AGAIN = ("logs/comfyline.log", "thumbnails/1.jpg", "prefect/prefect.db", "prefect-client/1")


def lay(home: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)


def made(folder: Path, *target: str) -> str:
    return subprocess.run(
        # Within `make test` it would say which directory it enters.
        ["make", "--no-print-directory", "-f", ROOT / "Makefile", *target],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


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

    said = made(tmp_path, "clean")

    assert [name for name in KEPT if not (home / name).is_file()] == []
    assert [name for name in MADE_AGAIN if (home / name).exists()] == []
    assert not (tmp_path / ".venv").exists()
    assert (tmp_path / "outputs/cat.png").is_file()
    for name in ("outputs", ".comfyline/ledger.sqlite3", ".comfyline/work"):
        assert f"kept: {name}\n" in said


def test_a_ledger_is_removed_only_with_a_yes_and_after_its_losses_were_named(rich: Office) -> None:
    home = rich.folder / "home"
    refused = rich.comfyline("ledger", "remove")
    assert refused.code == 64
    assert "Nothing was removed" in refused.stderr
    assert len(rich.attempts()) == 3
    assert (home / "work/request-4/0.png").is_file()

    ended = rich.comfyline("ledger", "remove", "--yes")

    assert ended.code == 0, ended.stderr
    for said in (
        "2 requests accepted at http",
        ", $0.14 and 1 cost not known: asking for the same pays again",
        "1 job paid for and not stored",
        "1 job in doubt",
        "1 request id not recorded yet",
        "1 fetched file not stored",
    ):
        assert said in refused.stderr
        assert said in ended.stderr
    assert not list(home.glob("ledger.sqlite3*"))
    assert not (home / "accepted.jsonl").exists()
    assert not (home / "work").exists()
    assert (rich.folder / "out").is_dir(), "what is stored stays"


def test_a_ledger_that_a_run_or_a_server_works_with_is_not_removed(
    rich: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich.ledger(lambda ledger: ledger.acquire(asked("stored").key))

    refused = rich.comfyline("ledger", "remove", "--yes")
    monkeypatch.setenv("COMFYLINE_LEDGER_URL", "postgresql://user@127.0.0.1:9/none")
    elsewhere = rich.comfyline("ledger", "remove", "--yes")

    assert (refused.code, "A run is using" in refused.stderr) == (75, True)
    assert elsewhere.code == 64
    assert len(rich.attempts()) == 3
    assert (rich.folder / "home/work/request-4/0.png").is_file()


@pytest.mark.parametrize(("answer", "goes"), [(b"yes\n", True), (b"y\n", False)])
def test_a_yes_may_be_typed_on_a_terminal(
    rich: Office, answer: bytes, monkeypatch: pytest.MonkeyPatch, *, goes: bool
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    with os.fdopen(ours, "wb"), os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        ended = rich.comfyline("ledger", "remove")
    assert (ended.code == 0) is goes, ended.stderr
    assert (rich.folder / "home/ledger.sqlite3").exists() is not goes


def test_ctrl_c_at_the_question_removes_nothing_whatever_is_typed_then(
    rich: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            signal.raise_signal(signal.SIGINT)
            return "yes\n"

    monkeypatch.setattr(sys, "stdin", Interrupted())
    ended = rich.comfyline("ledger", "remove")
    assert ended.code == 130, ended.stderr
    assert (rich.folder / "home/ledger.sqlite3").exists()


@pytest.mark.parametrize(
    ("confirm", "asks_for"),
    [
        ((), "ledger remove\n"),
        (("CONFIRM=maybe",), "ledger remove\n"),
        (("CONFIRM=yes",), "ledger remove --yes\n"),
    ],
)
def test_make_takes_confirm_yes_and_nothing_else(
    tmp_path: Path, confirm: tuple[str, ...], asks_for: str
) -> None:
    lay(tmp_path, ("pyproject.toml", "constraints.txt", ".venv/bin/python", ".venv/.installed"))
    command = tmp_path / ".venv/bin/comfyline"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    assert made(tmp_path, "clean-ledger", *confirm) == asks_for
