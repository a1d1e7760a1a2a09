"""Who is certainly dead: only a process of this machine that is not there any more."""

import os
import signal
import subprocess
import sys

import pytest

from comfyline.files import is_dead, this_process

SAY_NAME = (
    "from comfyline.files import this_process as t; import sys; "
    "print(t(), flush=True); sys.stdin.read()"
)


def changed(name: str, part: int, to: str) -> str:
    parts = name.rsplit("/", 3)
    parts[part] = to
    return "/".join(parts)


def test_a_name_tells_the_host_and_the_process_and_comes_once():
    assert f":{os.getpid()}/" in this_process()
    assert this_process() != this_process()


def test_a_process_is_dead_as_soon_as_it_is_killed_and_not_before():
    command = [sys.executable, "-c", SAY_NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert not is_dead(name)
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # Dead, and not yet buried by its parent.
        assert is_dead(name)
        child.wait(10)
        assert is_dead(name)


def test_the_same_number_started_at_another_time_is_another_process():
    assert not is_dead(this_process())
    assert is_dead(changed(this_process(), 2, "1"))


def test_a_process_of_another_machine_or_boot_is_never_called_dead():
    gone = changed(this_process(), 2, "1")
    assert not is_dead(changed(gone, 1, "another-machine"))


@pytest.mark.parametrize(
    "name", [None, "", "here:1", "a/b/c/d", "host:1/machine", "///", "host:x/{machine}/1/abc"]
)
def test_a_name_that_says_too_little_is_never_called_dead(name: str | None):
    machine = this_process().rsplit("/", 3)[1]
    assert not is_dead(name and name.replace("{machine}", machine))


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999", "1e9"])
def test_a_number_that_no_process_has_is_never_called_dead(number: str):
    assert not is_dead(changed(this_process(), 0, f"host:{number}"))


def test_a_machine_that_tells_nothing_of_itself_calls_nobody_dead(monkeypatch: pytest.MonkeyPatch):
    gone = changed(this_process(), 2, "1")
    monkeypatch.setattr("comfyline.files._machine", lambda: "")
    assert not is_dead(gone)
    assert not is_dead(changed(gone, 1, ""))
    assert not is_dead(this_process())
