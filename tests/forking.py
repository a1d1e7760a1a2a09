"""Processes that may be killed: the real command line, forked off a process that has it imported.

Started once, it imports everything, starts no thread and opens nothing. Each connection to its
socket asks for one command; a process of its own carries it out, as `comfyline` would, and how it
ended is written back. Importing takes seconds, forking milliseconds: that is all this is for.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_IMPORTED = (
    "PIL.Image",
    "aiobotocore.session",
    "alembic.command",
    "anyio._backends._asyncio",
    "botocore.session",
    "comfyline.cli.jobs",
    "comfyline.cli.run",
    "comfyline.ledger.tables",
    "encodings.idna",
    "fastapi",
    "flows.pipeline",
    "flows.reconcile",
    "graphviz",
    "prefect.concurrency.services",
    "prefect.flow_engine",
    "prefect.task_engine",
    "psycopg",
    "rich._emoji_codes",
    "s3fs",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)


@dataclass(frozen=True, slots=True)
class Command:
    """What one process does: a command line in a directory, and what is done to it before.

    `changes` are functions by `module:name`, each with what it is called with.
    """

    arguments: tuple[str, ...]
    directory: str
    environment: dict[str, str]
    output: str
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass
class Process:
    """A command that is under way, seen from the test that wants it."""

    channel: socket.socket
    output: Path
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.channel.makefile("r")
        self.pid = int(self._lines.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; minus the signal's number for one that was killed."""
        with self.channel, self._lines:
            return os.waitstatus_to_exitcode(int(self._lines.readline()))


def start(address: Path, command: Command) -> Process:
    """Asks the process behind a socket to carry out a command."""
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(300)
    channel.connect(str(address))
    channel.sendall(json.dumps(asdict(command)).encode() + b"\n")
    return Process(channel, Path(command.output))


def serve(address: str, modules: Sequence[str]) -> None:
    """Forks a process for each connection, until the socket's other side is closed for good."""
    # Nobody waits for these: each waits for its own child, and the kernel buries it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in (*_IMPORTED, *modules):
        importlib.import_module(name)
    _read_ahead()
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    while True:
        channel, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _attend(channel)
            return
        channel.close()


def _read_ahead() -> None:
    """Reads what each process would read for itself, and is the same for all."""
    from botocore import loaders
    from PIL import Image

    Image.init()
    loader = loaders.create_loader()
    for kind in ("service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2"):
        loader.load_service_model("s3", kind, api_version=None)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    loaders.create_loader = lambda *_: loader


def _attend(channel: socket.socket) -> None:
    """Reads one command and has a child carry it out, which returns from here."""
    command = Command(**json.loads(channel.makefile().readline()))
    pid = os.fork()
    if pid == 0:
        channel.close()
        _carry_out(command)
    channel.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    channel.sendall(f"{status}\n".encode())
    os._exit(0)


def _carry_out(command: Command) -> None:
    os.chdir(command.directory)
    os.environ.update(command.environment)
    for number, ending in ((1, "json"), (2, "log")):
        handle = os.open(f"{command.output}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    from comfyline.cli.main import main

    for place, argument in command.changes:
        module, _, name = place.partition(":")
        getattr(importlib.import_module(module), name)(argument)
    main(command.arguments)


def clean_environment() -> dict[str, str]:
    """The environment without what would lead elsewhere."""
    ours = ("PREFECT_", "RUNCOMFY_", "COMFYLINE_", "AWS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}


@contextmanager
def fork_server(environment: Mapping[str, str], *modules: str) -> Iterator[Path]:
    """The socket of a process that forks; `modules` are imported into it besides."""
    # A socket's path may have a hundred characters.
    address = Path(tempfile.mkdtemp(prefix="comfyline-")) / "socket"
    command = [sys.executable, "-m", "tests.forking", str(address), *modules]
    process = subprocess.Popen(command, env=dict(environment), cwd=Path(__file__).parents[1])
    try:
        deadline = time.monotonic() + 120
        while not address.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(address.parent)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
