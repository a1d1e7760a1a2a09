"""Starts real processes at a ledger, all at the same moment, and ends them as a crash would."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CLAIMER = Path(__file__).with_name("claimer.py")


@contextmanager
def claimer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready, and does what `arguments` say when it is told to go."""
    command = [sys.executable, str(CLAIMER), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert said(process) == "ready"
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def at_once(count: int, *arguments: str) -> list[str]:
    """What each of some processes said that began at the same moment."""
    with ExitStack() as stack:
        started = [stack.enter_context(claimer(*arguments)) for _ in range(count)]
        for process in started:
            go(process)
        return [said(process) for process in started]


def killed_after(*arguments: str) -> None:
    """A process that did what it was told, and was ended by SIGKILL right then."""
    with claimer(*arguments) as process:
        go(process)
        assert said(process) == "done"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
