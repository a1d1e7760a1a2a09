"""Files that appear whole, and what is swept up of those that did not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfyline.files import appearing_whole, part_path, sweep_parts

_WRITES_AND_DIES = """
import os, signal, sys
from pathlib import Path
from comfyline.files import appearing_whole
with appearing_whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_dead_process(target: Path) -> Path:
    ended = subprocess.run([sys.executable, "-c", _WRITES_AND_DIES, str(target)], check=False)
    assert ended.returncode < 0
    [left] = target.parent.iterdir()
    return left


def write_half(path: Path) -> None:
    path.write_text("half")
    raise OSError("disk full")


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    target = tmp_path / "new" / "file.txt"
    with appearing_whole(target) as part:
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    with pytest.raises(OSError, match="disk full"), appearing_whole(target) as part:
        write_half(part)
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_what_a_dead_process_left_is_swept_up_and_what_a_living_one_writes_is_not(tmp_path: Path):
    left = left_by_a_dead_process(tmp_path / "file.txt")
    mine = part_path(tmp_path / "other.txt")
    mine.write_text("being written")
    others = tmp_path / "file.part"
    others.write_text("somebody's own")

    assert sweep_parts(tmp_path) == 1

    assert not left.exists()
    assert mine.exists()
    assert others.exists()


def test_what_nobody_has_written_to_for_days_is_swept_up_whosever_it_was(tmp_path: Path):
    mine = part_path(tmp_path / "file.txt")
    mine.write_text("half")
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(mine, (long_ago, long_ago))
    assert sweep_parts(tmp_path) == 1
    assert not mine.exists()


def test_a_folder_that_is_not_there_is_nothing_to_sweep(tmp_path: Path):
    assert sweep_parts(tmp_path / "nowhere") == 0
