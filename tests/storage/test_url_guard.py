"""An address from somebody's table never leads into the private network behind a public one."""

import asyncio
import ipaddress
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import Unfetchable, Unreachable
from comfyline.storage.inputs import download
from comfyline.storage.url_guard import is_inside, is_public

Resolve = Callable[[dict[str, list[str]]], None]


@pytest.fixture
async def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Lets names lead where a test wants them to; each answer is given once, the last for good."""

    def to(names: dict[str, list[str]]) -> None:
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def answered(host: Any, port: Any, **options: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in names:
                return await real(host, port, **options)
            found = names[name]
            address = found.pop(0) if len(found) > 1 else found[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

        monkeypatch.setattr(loop, "getaddrinfo", answered)

    return to


async def read(url: str, *, private_hosts: bool = True) -> int:
    with tempfile.TemporaryFile() as copy:
        await download(url, copy, private_hosts=private_hosts)
        return copy.tell()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://[::ffff:169.254.169.254]/latest",
        "http://2852039166/latest",
        "http://0xa9fea9fe/latest",
        "http://[fe80::1]/a.jpg",
        "http://[fd00:ec2::254]/latest",
    ],
)
@pytest.mark.parametrize("private_hosts", [True, False])
async def test_the_credentials_of_a_cloud_machine_are_read_by_nobody(
    url: str, *, private_hosts: bool
) -> None:
    with pytest.raises(Unfetchable, match="leads to a private network"):
        await read(url, private_hosts=private_hosts)


async def test_a_host_of_this_network_is_read_only_where_runcomfy_is_in_it_too(files: str) -> None:
    assert await read(f"{files}/cat.jpg?secret") > 0

    with pytest.raises(Unfetchable) as caught:
        await read(f"{files}/cat.jpg?secret", private_hosts=False)
    assert "secret" not in str(caught.value)
    assert "use an address on the internet" in str(caught.value)


@pytest.mark.parametrize("private_hosts", [True, False])
async def test_a_redirect_from_the_internet_into_this_network_is_not_followed(
    files: str, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, *, private_hosts: bool
) -> None:
    # The public host is the file server: judged by the address that its name gives, and reached
    # at another one, which is taken for public as well.
    monkeypatch.setattr("comfyline.storage.url_guard.is_public", lambda ip: ip != "127.0.0.1")
    port = files.rpartition(":")[2]
    resolve({"public.test": ["127.0.0.2"]})
    with socket.create_server(("127.0.0.2", 0)) as listener:
        listener.listen()
        address = f"http://public.test:{listener.getsockname()[1]}/a.jpg"
        answer = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/cat.jpg\r\n"

        def redirecting() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())

        served = asyncio.create_task(asyncio.to_thread(redirecting))
        with pytest.raises(Unfetchable, match=r"public\.test.* leads to a private network"):
            await read(address, private_hosts=private_hosts)
        await served


async def test_a_name_that_leads_elsewhere_when_it_is_connected_to_is_not_asked(
    files: str, resolve: Resolve
) -> None:
    resolve({"rebinding.test": ["93.184.216.34", "127.0.0.1"]})

    with pytest.raises(Unfetchable, match="leads to a private network"):
        await read(f"http://rebinding.test:{files.rpartition(':')[2]}/cat.jpg")


async def test_a_name_that_nobody_knows_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cannot be read"):
        await read("http://nobody.invalid/a.jpg")


def test_a_host_that_nobody_on_the_internet_reaches_is_known_by_its_name() -> None:
    inside = "localhost minio 127.0.0.1 ::1 10.1.2.3 nas.local minio.svc.cluster.internal."
    outside = "s3.eu-central-1.amazonaws.com 8.8.8.8 2600:1f18::1 model-api.runcomfy.net"

    assert [host for host in inside.split() if not is_inside(host)] == []
    assert [host for host in outside.split() if is_inside(host)] == []


PUBLIC = "8.8.8.8 52.95.110.1 172.15.0.1 100.128.0.1 2600:1f18::1 ::ffff:8.8.8.8 2002:808:808::1"
PRIVATE = (
    "127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 172.31.255.255 192.168.1.1 100.64.0.1 169.254.169.254"
    " 192.0.2.1 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fec0::1"
    " fd00:ec2::254 ff02::1 2001:db8::1 2001:0:a9fe:a9fe::1 ::ffff:169.254.169.254 ::127.0.0.1"
    " 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1"
)


def test_what_everybody_reaches_is_public_and_what_is_somebodys_own_or_no_address_is_not() -> None:
    assert [ip for ip in PUBLIC.split() if not is_public(ip)] == []
    assert [ip for ip in PRIVATE.split() if is_public(ip)] == []
    no_address = ["", "localhost", "2130706433", "0x7f.1", "8.8.8.8/8", "[::1]"]
    assert [text for text in no_address if is_public(text)] == []


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_however_it_is_wrapped(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    wrapped = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1),
        ipaddress.IPv6Address(0x64FF9B << 96 | number),
    ]

    assert {is_public(str(one)) for one in wrapped} == {is_public(str(ip))}
