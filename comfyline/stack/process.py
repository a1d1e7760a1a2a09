"""Server processes: started so that they outlive us, recognised for certain, and ended."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from comfyline.stack.home import Layout, private_folder, private_opener, write_private

# Seconds between the polite and the hard end of a process.
STOP_LIMIT = 8.0

# A log that has grown beyond this is put aside at the next start; one old log is kept.
LOG_LIMIT_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Launch:
    """A command with its whole environment; the environment can hold a secret."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The content of a pid file: the process that was started, and where it listens."""

    service: str
    pid: int
    birth: str
    port: int
    started_at: str
    command: str

    def is_alive(self) -> bool:
        """Tell whether this very process lives, and not another that was given its number."""
        return birth_of(self.pid) == self.birth

    def listens(self) -> bool:
        """Tell whether it is this very process that listens on the recorded port."""
        try:
            connections = psutil.Process(self.pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            return False
        # The address of a socket that is bound to nothing is empty.
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (self.port,)
            for connection in connections
        )


def birth_of(pid: int) -> str | None:
    """Return a text that tells a living process from every other that had or will have its pid.

    None for one that has ended, also while its parent has not yet taken note of that.
    """
    try:
        if _has_ended(process := psutil.Process(pid)):
            return None
        if sys.platform == "linux":
            # psutil computes the create time from the clock, and moves it when the clock is set:
            # after a suspended virtual machine wakes, every server of ours would count as
            # foreign. The kernel's own figure, ticks since a boot that has a name, never moves.
            ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot}:{ticks.split()[19]}"
        return f"{process.create_time():.2f}"
    except (psutil.Error, OSError, ValueError):
        return None


def read_record(path: Path) -> ServerRecord | None:
    """Read what a pid file says; None when there is none or it makes no sense."""
    try:
        return ServerRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def start(layout: Layout, service: str, port: int, launch: Launch) -> tuple[ServerRecord, int]:
    """Start a server, write its pid file at once, and say where its part of the log begins.

    The server has its own session, so that neither Ctrl-C nor the end of our terminal reaches it.
    """
    log = layout.log(service)
    private_folder(log.parent)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with open(log, "ab", opener=private_opener) as output:
        begin = output.tell()
        child = subprocess.Popen(
            launch.command,
            env=dict(launch.environment),
            # The home, not the project: Prefect reads settings from a pyproject.toml, prefect.toml
            # or .env in its working directory.
            cwd=layout.home,
            # Databases, logs, objects: what it makes is its user's alone.
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = ServerRecord(
        service=service,
        pid=child.pid,
        birth=birth_of(child.pid) or "",
        port=port,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=Path(launch.command[0]).name,
    )
    write_private(layout.record(service), json.dumps(asdict(record), indent=2) + "\n")
    # Nobody will wait for it: it is meant to go on. A Popen that is dropped without a return code
    # complains about exactly that.
    child.returncode = 0
    return record, begin


def end(
    records: Iterable[ServerRecord], also: Iterable[psutil.Process] = (), patience: float = 0
) -> None:
    """End these processes with their children: politely, and after `STOP_LIMIT` by force.

    Children, and those that are to end `also`, are given `patience` seconds before. Blocks. psutil
    checks before every signal that the pid still means the same process.
    """
    family, children = list[psutil.Process](), set(also)
    for record in records:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(record.pid)
            if record.is_alive():
                # Before the signal: orphans no longer tell whose children they were.
                family.append(process)
                children.update(process.children(recursive=True))
    family += children
    _send(psutil.Process.terminate, family)
    _wait(list(children), patience)
    left = _wait(family)
    _send(psutil.Process.kill, left)
    _wait(left)


def log_tail(log: Path, begin: int, hidden: Iterable[str] = (), lines: int = 10) -> str:
    """Return the last lines that were written after `begin`, with every hidden text struck out."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(begin, size - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    for secret in hidden:
        text = text.replace(secret, "…")
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return True


def _send(signal: Callable[[psutil.Process], None], family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            signal(process)


def _wait(family: list[psutil.Process], seconds: float = STOP_LIMIT) -> list[psutil.Process]:
    """Wait so long for the end of these; return those that still live."""
    limit = time.monotonic() + seconds
    # Not psutil's own waiting alone: it counts an ended process as alive until the parent has
    # taken note, and the first process of a container, which inherits our servers, may never.
    while alive := [p for p in psutil.wait_procs(family, timeout=0)[1] if not _has_ended(p)]:
        if time.monotonic() > limit:
            break
        time.sleep(0.05)
    return alive
