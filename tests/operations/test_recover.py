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
from comfyline.files import is_in_use, work_path
mine = work_path(Path(sys.argv[1]), 0)
others = [path for path in mine.parent.iterdir() if is_in_use(path)]
mine.write_text("")
print(os.getpid(), len(others), flush=True)
sys.stdin.read()
"""


@contextmanager
def container(directory: Path) -> Iterator[str]:
    """A process in a process namespace of its own; its number there and whose files it sees."""
    command = [*_UNSHARE, sys.executable, "-c", _WORKS, str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def test_two_containers_with_the_same_process_id_leave_each_others_work_alone(tmp_path: Path):
    if subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process namespace")
    with container(tmp_path) as first, container(tmp_path) as second:
        assert (first, second) == ("1 0", "1 1")
        assert len(list(tmp_path.iterdir())) == 2


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
