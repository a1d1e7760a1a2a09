"""Who works on something: a name for this process by which others can tell that it is dead.

A lock need not be waited out when its holder is known to be gone. That can be said only of a
process of this very boot and process namespace: anything else counts as alive.
"""

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

_PARTS = 4
_STATE, _STARTED = 0, 19
"""Where a process's state and its start, in ticks since boot, stand in `/proc/PID/stat`."""


def this_process() -> str:
    """Return a name for this process: `host:pid/machine/start/token`, never the same twice."""
    pid = os.getpid()
    started = _stat(pid)[_STARTED] if _machine() else ""
    return f"{socket.gethostname()}:{pid}/{_machine()}/{started}/{secrets.token_hex(4)}"


def is_dead(owner: str | None) -> bool:
    """Return whether the process of that name has certainly ended."""
    parts = (owner or "").rsplit("/", 3)
    machine = _machine()
    if len(parts) != _PARTS or not machine or parts[1] != machine:
        return False
    pid = parts[0].rpartition(":")[2]
    try:
        # Asked of the kernel first: /proc can hide a process that lives.
        os.kill(int(pid), 0)
        seen = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    # Not by the time of day, which somebody may set: the same number again is another process.
    return seen[_STARTED] != parts[2] or seen[_STATE] in "ZX"


def _stat(pid: int) -> list[str]:
    # The name before the last bracket may hold anything, spaces and brackets too.
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _machine() -> str:
    """Return which boot and process namespace we are in; empty where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # In two containers the same number is two processes.
        return f"{boot[:13]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""
