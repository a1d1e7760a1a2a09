"""Where an address on the web may lead: never into the private network behind a public address.

An address may come from somebody's table. What answers at 169.254.169.254 of a cloud machine are
its credentials, and what answers at 10.0.0.1 was not meant for whoever wrote the table.
"""

import asyncio
import ipaddress
import socket
from typing import Any

import httpx

from comfyline.errors import Unfetchable
from comfyline.storage.url_guard import is_public

_METADATA = {"fd00:ec2::254", "100.100.100.200", "192.0.0.192"}
"""Where clouds give a machine its credentials, beside the link-local addresses."""

_INSIDE = (".localhost", ".local", ".internal", ".lan", ".intranet", ".home.arpa")
"""Names that mean something in one's own network only."""


class Route:
    """The way that one download takes, hop by hop. `shown` is its address in messages.

    With `private_hosts` it may begin in a private network; from a public host it never leads there.
    """

    def __init__(self, shown: str, *, private_hosts: bool) -> None:
        self._shown = shown
        self._private_hosts = private_hosts
        self._host = ""
        self._is_direct = True

    async def enter(self, request: httpx.Request) -> None:
        """Judges the host of a hop before it is asked, as httpx's event hook calls it.

        Raises `Unfetchable`. A name that cannot be resolved is left to whoever connects.
        """
        self._host = request.url.host
        found = await _addresses(self._host)
        for address in found:
            self._judge(address)
        if found and all(map(is_public, found)):
            self._private_hosts = False
        request.extensions["trace"] = self._connected

    async def _connected(self, event: str, told: dict[str, Any]) -> None:
        """Judges the address that was really connected to, before anything is sent there.

        A name may lead elsewhere from one moment to the next. Through a proxy, whose address this
        is then, nothing but the name is known.
        """
        if event == "connection.connect_tcp.started":
            self._is_direct = told["host"] == self._host
        elif event == "connection.connect_tcp.complete" and self._is_direct:
            address = told["return_value"].get_extra_info("server_addr")[0]
            try:
                self._judge(address)
            except Unfetchable:
                await told["return_value"].aclose()
                raise

    def _judge(self, address: str) -> None:
        if is_public(address):
            return
        if not self._private_hosts or _is_forbidden(address):
            raise Unfetchable(
                f"{self._shown} leads into a private network ({address})",
                hint="RunComfy cannot fetch it there; use an address on the internet, or a file.",
            )


def is_inside(host: str) -> bool:
    """Whether a host is, by its very name, one that nobody on the internet can reach."""
    bare = host.rstrip(".").lower()
    try:
        return not is_public(str(ipaddress.ip_address(bare.partition("%")[0])))
    except ValueError:
        return "." not in bare or bare.endswith(_INSIDE)


def _is_forbidden(address: str) -> bool:
    bare = address.partition("%")[0]
    ip = ipaddress.ip_address(bare)
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return mapped.is_link_local or str(mapped) in _METADATA


async def _addresses(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))
