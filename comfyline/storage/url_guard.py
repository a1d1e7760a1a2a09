"""Which addresses of the network everybody reaches, and which are somebody's own.

Asked of the address that is connected to, after resolution: a name, however it is written, says
nothing about where it leads.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last four bytes are the IPv4 address that is reached."""
_COMPATIBLE = IPv6Network("::/96")
"""IPv4 in IPv6 as it was written at first (RFC 4291, 2.5.5.1)."""


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
        # A range may be public in the registry and be a wrapping of a private address.
        if (wrapped := _wrapped(address)) is not None:
            return _is_public(wrapped)
        return _is_public(address) and not address.is_site_local
    return _is_public(address)


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in _TRANSLATED or address in _COMPATIBLE:
        return IPv4Address(address.packed[-4:])
    return None


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    # The registry calls multicast and what is reserved for the future global as well.
    return address.is_global and not address.is_multicast and not address.is_reserved
