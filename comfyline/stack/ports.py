"""Which port a service gets.

A port that was asked for explicitly is used or refused. Otherwise the port used last in this
home is preferred, so that addresses stay the same, then the default, then the next free one.
"""

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from comfyline.errors import Unreachable
from comfyline.stack.layout import write_private

LOOPBACK = "127.0.0.1"

# Searched when a default is taken: room for some thirty homes at once on one machine.
SPARE_PORTS = range(4273, 4373)


def candidates(default: int, remembered: int | None, kept: Iterable[int] = ()) -> list[int]:
    """List the ports to try, best first. `kept` are those of the home's other services."""
    avoided = set(kept)
    ordered = dict.fromkeys([remembered, default, *SPARE_PORTS])
    return [port for port in ordered if port is not None and port not in avoided]


@dataclass(frozen=True, slots=True)
class Claim:
    """A port that no other starting home takes while the claim is held."""

    port: int
    guard: socket.socket | None

    def release(self) -> None:
        """Give the claim up. A process that dies gives up its claims as well."""
        if self.guard is not None:
            self.guard.close()


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


def claim(port: int) -> Claim | None:
    """Claim a free port, or return None.

    Prefect needs many seconds until it listens; a second home that starts meanwhile would see
    the port free and lose the race at the very end. The claim is a UDP socket bound to the same
    number: invisible to TCP, seen by whoever claims, and gone with the process that holds it.
    """
    guard = _guard(port)
    if guard is None:
        return None
    if is_free(port):
        return Claim(port, guard)
    guard.close()
    return None


def claim_first(ports: Iterable[int]) -> Claim | None:
    """Claim the first free port of these."""
    return next((got for port in ports if (got := claim(port)) is not None), None)


def claim_explicit(service: str, port: int, option: str) -> Claim:
    """Claim exactly the port that was asked for by `option`, or say who holds it."""
    if is_free(port):
        # Without a guard (some UDP service has the number) the port is still good.
        return Claim(port, _guard(port))
    raise Unreachable(
        f"port {port}, asked for {service}, is taken by {holder(port)}",
        hint=f"choose another with {option}, or end that process",
    )


def holder(port: int) -> str:
    """Name the process that listens on a port; an unknown one when we may not see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            # The address of a socket that is bound to nothing is empty.
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process that cannot be named"


def read_ports(path: Path) -> dict[str, int]:
    """Read the ports used last in this home. A lost or broken file costs only the preference."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(_valid(found)) if isinstance(found, dict) else {}


def remember_port(path: Path, service: str, port: int) -> None:
    """Keep the port of a service for the next start. To be called under the home's lock."""
    known = read_ports(path)
    if known.get(service) != port:
        write_private(path, json.dumps({**known, service: port}, indent=2) + "\n")


def _guard(port: int) -> socket.socket | None:
    guard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        guard.bind((LOOPBACK, port))
    except OSError:
        guard.close()
        return None
    return guard


def _valid(found: Mapping[object, object]) -> Iterator[tuple[str, int]]:
    for service, port in found.items():
        if isinstance(service, str) and isinstance(port, int) and 0 < port < 2**16:
            yield service, port
