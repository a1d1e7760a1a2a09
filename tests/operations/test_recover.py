"""Work files of one request, kept apart where several processes share a folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from comfyline.files import work_path
from comfyline.operations.recover import clear, forget_results

_UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
_WORKS = """
import os, sys
from pathlib import Path
from comfyline.files import work_path
from comfyline.operations.recover import clear, forget_results
directory = Path(sys.argv[1])
mine = work_path(directory, 0)
mine.write_text(sys.argv[2])
clear(directory) if sys.argv[2] == "clears" else None
print(os.getpid(), mine.name, flush=True)
sys.stdin.read()
"""


@contextmanager
def container(directory: Path, does: str) -> Iterator[tuple[str, str]]:
    """A process in a process namespace of its own; its number there and its work file."""
    command = [*_UNSHARE, sys.executable, "-c", _WORKS, str(directory), does]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number, name = process.stdout.readline().split()
        yield number, name


@pytest.fixture
def _namespaces() -> None:
    if subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process namespace")


@pytest.mark.usefixtures("_namespaces")
def test_two_containers_with_the_same_process_id_leave_each_others_work_alone(tmp_path: Path):
    with container(tmp_path, "fetches") as first, container(tmp_path, "clears") as second:
        assert first[0] == second[0]
        assert first[1] != second[1]
        assert [path.read_text() for path in tmp_path.iterdir()] == ["fetches"]


def test_what_a_dead_process_or_this_one_fetched_is_cleared_and_the_folder_with_it(tmp_path: Path):
    work = tmp_path / "request"
    work.mkdir()
    mine = work_path(work, 0)
    mine.write_text("mine")
    machine, started = mine.name.split("~")[2:4]
    mine.with_name(mine.name.replace(f"~{started}~", "~1~")).write_text("of a dead one")
    (work / "result.json").write_text("{}")
    another = mine.with_name(mine.name.replace(machine, "another"))
    another.write_text("of a process that nobody can tell of")

    clear(work)

    assert list(work.iterdir()) == [another]
    another.unlink()
    clear(work)
    assert not work.exists()


def test_remembered_results_are_forgotten_after_a_week(tmp_path: Path):
    storage = tmp_path / "prefect-client/storage"
    storage.mkdir(parents=True)
    for name in ("old", "young"):
        (storage / name).write_text("{}")
    now = datetime.now(UTC)
    eight_days_ago = (now - timedelta(days=8)).timestamp()
    os.utime(storage / "old", (eight_days_ago, eight_days_ago))

    forget_results(tmp_path, now)

    assert [path.name for path in storage.iterdir()] == ["young"]
