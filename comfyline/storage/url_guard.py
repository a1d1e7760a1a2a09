"""The one guard of the private network: which addresses everybody reaches, and where URLs lead.

A URL may come from somebody's table or from an answer. What answers at 169.254.169.254 of a cloud
machine are its credentials, and what answers at 10.0.0.1 was not meant for whoever wrote the URL.
Checked is the address that is connected to: a name, however it is written, says nothing of it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpx

from comfyline.errors import Unfetchable

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]
"""What httpx calls at each step of a connection, as the extension `trace` of a request."""

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last four bytes are the IPv4 address that is reached."""
_COMPATIBLE = IPv6Network("::/96")
"""IPv4 in IPv6 as it was written at first (RFC 4291, 2.5.5.1)."""
_METADATA = {"fd00:ec2::254", "100.100.100.200", "192.0.0.192"}
"""Where clouds give a machine its credentials, beside the link-local addresses."""
_INSIDE = (".localhost", ".local", ".internal", ".lan", ".intranet", ".home.arpa")
"""Names that mean something in one's own network only."""


def is_public(ip: str) -> bool:
    """Tell whether an IP address is one of the public internet.

    Not public are loopback, private, link-local (cloud metadata), shared, multicast, reserved and
    documentation addresses, an IPv6 address that only wraps such an IPv4 one, and whatever is no
    address.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.is_site_local:
            return False
        # A range may be public in the registry and be a wrapping of a private address.
        address = _wrapped(address) or address
    # The registry calls multicast and what is reserved for the future global as well.
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_inside(host: str) -> bool:
    """Tell whether a host is, by its very name, one that nobody on the internet can reach."""
    bare = host.rstrip(".").lower()
    try:
        return not is_public(str(ip_address(bare.partition("%")[0])))
    except ValueError:
        return "." not in bare or bare.endswith(_INSIDE)


async def resolve(host: str, port: int | None = None) -> list[str]:
    """Return the addresses of a host; none where its name cannot be resolved."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def on_connect(host: str, check: Callable[[str], None]) -> Trace:
    """Make a trace that checks the address connected to, before anything is sent there.

    A name may lead elsewhere from one moment to the next (DNS rebinding). When `check` raises, the
    connection is closed. Through a proxy, whose address this is then, nothing is checked.
    """
    is_direct = True

    async def trace(event: str, told: dict[str, Any]) -> None:
        nonlocal is_direct
        if event == "connection.connect_tcp.started":
            is_direct = told["host"] == host
        elif event == "connection.connect_tcp.complete" and is_direct:
            stream = told["return_value"]
            try:
                check(str(stream.get_extra_info("server_addr")[0]))
            except BaseException:
                await stream.aclose()
                raise

    return trace


class UrlGuard:
    """Watches where one download leads, hop by hop. `shown` is its URL in messages.

    With `private_hosts` it may begin in a private network; from a public host it never leads there.
    """

    def __init__(self, shown: str, *, private_hosts: bool) -> None:
        self._shown = shown
        self._private_hosts = private_hosts

    async def enter(self, request: httpx.Request) -> None:
        """Check the host of a hop before it is asked, as httpx's event hook calls it.

        Raises `Unfetchable`. A name that cannot be resolved is left to whoever connects.
        """
        host = request.url.host
        found = await resolve(host)
        for address in found:
            self._check(address)
        if found and all(map(is_public, found)):
            self._private_hosts = False
        request.extensions["trace"] = on_connect(host, self._check)

    def _check(self, address: str) -> None:
        if is_public(address):
            return
        if not self._private_hosts or _gives_credentials(address):
            raise Unfetchable(
                f"{self._shown} leads to a private network ({address})",
                hint="RunComfy cannot fetch it there; use an address on the internet, or a file.",
            )


def _gives_credentials(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return mapped.is_link_local or str(mapped) in _METADATA


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in _TRANSLATED or address in _COMPATIBLE:
        return IPv4Address(address.packed[-4:])
    return None
