"""An address from somebody's table never leads into the private network behind a public one."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from comfyline.errors import Unfetchable, Unreachable
from comfyline.storage.url_guard import is_inside
from comfyline.storage.web import read_url

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
    seen: list[bytes] = []
    await read_url(url, seen.append, private_hosts=private_hosts)
    return len(b"".join(seen))


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


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("localhost", True),
        ("minio", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("nas.local", True),
        ("minio.svc.cluster.internal.", True),
        ("s3.eu-central-1.amazonaws.com", False),
        ("8.8.8.8", False),
        ("2600:1f18::1", False),
        ("model-api.runcomfy.net", False),
    ],
)
def test_a_host_that_nobody_on_the_internet_reaches_is_known_by_its_name(
    host: str, *, inside: bool
) -> None:
    assert is_inside(host) is inside
