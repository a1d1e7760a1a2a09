import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.storage.url_guard import is_public


@pytest.mark.parametrize(
    "ip",
    [
        "8.8.8.8",
        "52.95.110.1",
        "172.15.0.1",
        "100.128.0.1",
        "2600:1f18::1",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "64:ff9b::808:808",
    ],
)
def test_what_everybody_reaches_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",  # noqa: S104  # judged, not listened on
        "10.0.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "2001:0:a9fe:a9fe::1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
    ],
)
def test_what_is_somebodys_own_is_not(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("text", ["", "localhost", "2130706433", "0x7f.1", "8.8.8.8/8", "[::1]"])
def test_what_is_no_address_is_not(text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_however_it_is_wrapped(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    wrapped = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1),
        ipaddress.IPv6Address(0x64FF9B << 96 | number),
    ]

    assert {is_public(str(one)) for one in wrapped} == {is_public(str(ip))}
