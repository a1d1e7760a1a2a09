"""Which port a service gets.

The port used last in this home is preferred, so that addresses stay the same, then the service's
own, then the next free one. Another process can take a free port before the server has it: the
start is then tried again at the next.
"""

import json
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from comfyline.errors import Unreachable
from comfyline.stack.home import write_private

LOOPBACK = "127.0.0.1"

# Searched when a default is taken: room for some thirty homes at once on one machine.
SPARE_PORTS = range(4273, 4373)


def is_port(port: object) -> bool:
    """Tell whether a server can listen on a port of this number."""
    return isinstance(port, int) and 0 < port < 2**16


def first_free(default: int, last: int | None, kept: Iterable[int] = ()) -> int | None:
    """Return the best port that is free now. `kept` are those of the home's other services."""
    avoided = set(kept)
    ordered = dict.fromkeys([last, default, *SPARE_PORTS])
    wanted = (port for port in ordered if port is not None and port not in avoided)
    return next((port for port in wanted if is_free(port)), None)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT of a server that has ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def check_free(service: str, port: int, option: str) -> None:
    """Raise `Unreachable` when a port that was asked for by `option` is taken, and say by whom."""
    if not is_free(port):
        raise Unreachable(
            f"port {port}, requested for {service}, is used by {_holder(port)}",
            hint=f"choose another with {option}, or stop that process",
        )


def _holder(port: int) -> str:
    with suppress(psutil.Error):
        for one in psutil.net_connections(kind="tcp"):
            # The address of a socket that is bound to nothing is empty.
            if one.status == psutil.CONN_LISTEN and one.laddr[1:] == (port,) and one.pid:
                return f"{psutil.Process(one.pid).name()} (pid {one.pid})"
    return "an unknown process"


def read_ports(path: Path) -> dict[str, int]:
    """Read the ports used last in this home. A lost or broken file costs only the preference."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {service: port for service, port in found.items() if is_port(port)}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def remember_port(path: Path, service: str, port: int) -> None:
    """Keep the port of a service for the next start. To be called under the home's lock."""
    known = read_ports(path)
    if known.get(service) != port:
        write_private(path, json.dumps({**known, service: port}, indent=2) + "\n")
