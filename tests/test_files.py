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


def write_half(target: Path) -> None:
    with appearing_whole(target) as part:
        part.write_text("half")
        assert part.parent == target.parent
        raise OSError("disk full")


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    target = tmp_path / "new" / "file.txt"
    with appearing_whole(target) as part:
        part.write_text("whole")
        assert not target.exists()
    with pytest.raises(OSError, match="disk full"):
        write_half(target)
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_what_is_nobodys_any_more_is_swept_up_and_nothing_else(tmp_path: Path):
    command = [sys.executable, "-c", _WRITES_AND_DIES, str(tmp_path / "file.txt")]
    assert subprocess.run(command, check=False).returncode < 0
    assert len(list(tmp_path.iterdir())) == 1
    abandoned, mine = (part_path(tmp_path / name) for name in ("old.txt", "new.txt"))
    others = tmp_path / "file.part"
    for path in (abandoned, mine, others):
        path.write_text("half")
    days_ago = time.time() - 3 * 24 * 3600
    for path in (abandoned, others):
        os.utime(path, (days_ago, days_ago))

    assert sweep_parts(tmp_path) == 2

    assert {*tmp_path.iterdir()} == {mine, others}
    assert sweep_parts(tmp_path / "nowhere") == 0
