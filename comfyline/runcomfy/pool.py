"""Connections for outputs: no token, no cookie, no redirect, and no private address by surprise.

A name is resolved once, and the address that came of it is checked where its socket is made: a
name that leads elsewhere the next time (DNS rebinding) gains nothing by it. TLS still proves the
name. aiohttp, because it takes a third of the CPU that httpx takes for the same bytes.
"""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from aiohttp.abc import AbstractCookieJar
from yarl import URL

from comfyline.config.profile import is_loopback
from comfyline.runcomfy.hosts import Address, RefusedOutput
from comfyline.storage.url_guard import is_public

# The read timeout is an idle timeout: a big file may take long, silence may not.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_HEAD_SECONDS = 120.0
"""For the answer to begin, however slowly its head trickles in."""
_BUFFER = 1024 * 1024
_HEADERS = {
    # An output that came compressed could not be compared with the length it promises.
    "Accept-Encoding": "identity",
    "Accept": "*/*",
    "User-Agent": "comfyline",
}


class _Private(OSError):
    """The address of a name is none of the public internet. One text, so that many become one."""


class Pool:
    """Two kinds of connections: to hosts that the profile names, and to public addresses only.

    A proxy of the environment is used for public hosts, because where there is one it is the only
    way out. It looks names up itself, so TLS alone proves who answered; what resolves here to a
    private address is refused before.
    """

    def __init__(self) -> None:
        self._anywhere: aiohttp.ClientSession | None = None
        self._public: aiohttp.ClientSession | None = None
        self._trust: ssl.SSLContext | None = None

    async def get(self, address: Address, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The beginning of an answer, whatever its status; its body is as it was sent.

        Raises `aiohttp.ClientError` or `TimeoutError`, and `RefusedOutput` where the host leads
        into a private network.
        """
        proxy = None if address.is_named else _proxy(address)
        if proxy:
            await _refuse_private(address)
        session = self._session(address, proxy)
        trust = await self._context() if address.url.scheme == "https" else True
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                return await session.get(
                    address.url,
                    headers=headers,
                    allow_redirects=False,
                    ssl=trust,
                    proxy=proxy.with_user(None) if proxy else None,
                    proxy_headers=_credentials(proxy) if proxy else None,
                )
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _Private):
                raise _leads_inside(address) from None
            raise

    async def close(self) -> None:
        """Closes every connection."""
        for session in (self._anywhere, self._public):
            if session:
                await session.close()

    def _session(self, address: Address, proxy: URL | None) -> aiohttp.ClientSession:
        if address.is_named or proxy:
            self._anywhere = self._anywhere or _open(aiohttp.TCPConnector(limit=0))
            return self._anywhere
        self._public = self._public or _open(
            aiohttp.TCPConnector(limit=0, socket_factory=_public_socket)
        )
        return self._public

    async def _context(self) -> ssl.SSLContext:
        if self._trust is None:
            # The same authorities that the API's client trusts.
            self._trust = await asyncio.to_thread(httpx.create_ssl_context)
        return self._trust


def _open(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    no_cookies: AbstractCookieJar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=no_cookies,
        headers=_HEADERS,
        timeout=_TIMEOUT,
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_BUFFER,
    )


def _public_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """The socket for one address that a name has led to, made only for a public one."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _Private("it leads into a private network")
    return socket.socket(family, kind, protocol)


def _proxy(address: Address) -> URL | None:
    """The machine's proxy for a host; it leads outwards and never sees what is for the machine."""
    proxies, host = getproxies(), address.url.host or ""
    found = proxies.get(address.url.scheme) or proxies.get("all")
    if not found or is_loopback(host) or proxy_bypass(f"{host}:{address.url.port}"):
        return None
    proxy = URL(found if "://" in found else f"http://{found}")
    return proxy if proxy.scheme in {"http", "https"} else None


def _credentials(proxy: URL) -> dict[str, str]:
    if proxy.user is None:
        return {}
    pair = f"{proxy.user}:{proxy.password or ''}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}


async def _refuse_private(address: Address) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # Behind a proxy names often resolve nowhere else.
        for info in await loop.getaddrinfo(address.url.host, address.url.port):
            if not is_public(str(info[4][0])):
                raise _leads_inside(address)


def _leads_inside(address: Address) -> RefusedOutput:
    return RefusedOutput(
        f"{address.shown} leads to an address of a private network, where no output is fetched",
        hint="If it is meant to be there, name the host in runcomfy.download_hosts, without `*`.",
    )
