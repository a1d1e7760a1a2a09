"""A CDN that does everything wrong that one can, byte by byte, over connections on loopback."""

import gzip
import random
import re
import socketserver
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket

from tests.media.clips import bomb, clip, picture

GOOD = picture("PNG", (400, 300))
"""A picture of which every byte counts, larger than any buffer on the way would hide."""
OTHER = picture("PNG", (200, 300))
WIDE = picture("JPEG", (300, 100))
LARGE = random.Random(1).randbytes(11_000_000)
PAGE = b"<!doctype html><title>One moment</title>" + b" " * 5000
_HALF = len(GOOD) // 2
_ARRIVES = 0.05
"""Seconds for what was sent to be read: what the end of a connection overtakes is lost."""


@dataclass(frozen=True)
class Asked:
    """One request as it came: its path, its headers, how many came for this path before it."""

    path: str
    headers: dict[str, str]
    before: int


@dataclass
class Hostile:
    """The server's address and all that it was asked, by path.

    As RunComfy's API it has these results, by request id.
    """

    url: str = ""
    port: int = 0
    results: dict[str, bytes] = field(default_factory=dict)
    asked: dict[str, list[Asked]] = field(default_factory=lambda: defaultdict(list))


Case = Callable[[Asked, Hostile, socket], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(to: socket, body: bytes, status: int = 200, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # Said, because each connection is closed after its answer: one that looked idle would be used.
    usual = {"Content-Length": str(len(body)), "Connection": "close"}
    to.sendall(head(status, usual | named) + body)


def reset(to: socket) -> None:
    to.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))


def redirect(to: socket, location: str) -> None:
    answer(to, b"moved", 302, Location=location)


def _rest(asked: Asked) -> int:
    found = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
    return int(found[1]) if found else 0


def _broken_off(asked: Asked, to: socket, tag: str = '"one"') -> bool:
    """The first answer stops in the middle."""
    if asked.before:
        return False
    to.sendall(head(200, {"Content-Length": str(len(GOOD)), "ETag": tag}) + GOOD[:_HALF])
    time.sleep(_ARRIVES)
    return True


def _part(content: bytes, start: int, **headers: str) -> tuple[bytes, int, dict[str, str]]:
    spread = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return content[start:], 206, {"Content-Range": spread, "ETag": '"one"'} | headers


@case
def good(_asked: Asked, _server: Hostile, to: socket) -> None:
    disposition = 'attachment; filename="../../../evil.png"'
    answer(to, GOOD, Content_Disposition=disposition, Set_Cookie="id=1; Path=/")


@case
def truncated(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(head(200, {"Content-Length": str(len(GOOD))}) + GOOD[:_HALF])


@case
def truncated_without_length(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(head(200, {"Connection": "close"}) + GOOD[:_HALF])


@case
def endless(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(head(200, {"Connection": "close"}) + GOOD)
    while True:
        to.sendall(bytes(100_000))


@case
def endless_page(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(head(200, {"Connection": "close"}))
    while True:
        to.sendall(PAGE)


@case
def endless_head(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(b"HTTP/1.1 200 So\r\n")
    while True:
        to.sendall(b"X-Much: " + b"x" * 5000 + b"\r\n")


@case
def empty(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, b"", Content_Type="image/png")


@case
def page(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, PAGE, Content_Type="image/png")


@case
def json(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, b'{"error_code": 404001}', Content_Type="image/png")


@case
def video(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, clip("mp4"), Content_Type="image/png")


@case
def page_once(asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, GOOD if asked.before else PAGE)


@case
def png_bomb(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, bomb())


@case
def trickle(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(head(200, {"Content-Length": str(len(GOOD))}))
    for at in range(0, len(GOOD), 100):
        to.sendall(GOOD[at : at + 100])


@case
def packed(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, gzip.compress(GOOD), Content_Encoding="gzip")


@case
def packed_and_cut(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, gzip.compress(GOOD)[:-100], Content_Encoding="gzip")


@case
def gzip_bomb(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, gzip.compress(GOOD + bytes(20_000_000)), Content_Encoding="gzip")


@case
def length_too_short(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, GOOD, Content_Length=str(_HALF))


@case
def length_too_long(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, GOOD, Content_Length=str(len(GOOD) + 1))


@case
def length_beyond_the_limit(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, GOOD, Content_Length=str(10**12))


@case
def part_nobody_asked_for(_asked: Asked, _server: Hostile, to: socket) -> None:
    body, status, headers = _part(GOOD, 0)
    to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body)


@case
def no_http(_asked: Asked, _server: Hostile, to: socket) -> None:
    to.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@case
def resumed(asked: Asked, _server: Hostile, to: socket) -> None:
    if not _broken_off(asked, to):
        body, status, headers = _part(GOOD, _rest(asked))
        to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body)


@case
def resumed_after_a_reset(asked: Asked, server: Hostile, to: socket) -> None:
    """A reset may take all with it that was not read yet: then there is nothing to go on from."""
    if _broken_off(asked, to):
        reset(to)
    elif _rest(asked):
        resumed(asked, server, to)
    else:
        answer(to, GOOD)


@case
def resumed_again_and_again(asked: Asked, _server: Hostile, to: socket) -> None:
    start, step = _rest(asked), len(GOOD) // 4 + 1
    body, status, headers = _part(GOOD, start) if start else (GOOD, 200, {"ETag": '"one"'})
    to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body[:step])
    time.sleep(_ARRIVES)


@case
def many_breaks(asked: Asked, _server: Hostile, to: socket) -> None:
    start = _rest(asked)
    body, status, headers = _part(LARGE, start) if start else (LARGE, 200, {"ETag": '"one"'})
    to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body[:2_000_000])
    time.sleep(_ARRIVES)


@case
def ranges_ignored(asked: Asked, _server: Hostile, to: socket) -> None:
    if not _broken_off(asked, to):
        answer(to, GOOD, ETag='"one"')


@case
def no_tag_to_go_on_by(asked: Asked, _server: Hostile, to: socket) -> None:
    if not _broken_off(asked, to, tag='W/"weak"'):
        answer(to, GOOD)


@case
def changed_in_between(asked: Asked, _server: Hostile, to: socket) -> None:
    if not _broken_off(asked, to):
        answer(to, OTHER, ETag='"two"')


@case
def part_of_another_file(asked: Asked, _server: Hostile, to: socket) -> None:
    if _broken_off(asked, to):
        return
    if _rest(asked):
        body, status, headers = _part(GOOD, _rest(asked), ETag='"two"')
        to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body)
    else:
        answer(to, GOOD, ETag='"two"')


@case
def another_part(asked: Asked, _server: Hostile, to: socket) -> None:
    if _broken_off(asked, to):
        return
    if _rest(asked):
        body, status, headers = _part(GOOD, 7)
        to.sendall(head(status, headers | {"Content-Length": str(len(body))}) + body)
    else:
        answer(to, GOOD)


@case
def range_refused(asked: Asked, _server: Hostile, to: socket) -> None:
    if not _broken_off(asked, to):
        answer(to, b"", 416) if _rest(asked) else answer(to, GOOD)


@case
def loop(asked: Asked, server: Hostile, to: socket) -> None:
    redirect(to, f"{server.url}{asked.path}")


@case
def hop(asked: Asked, _server: Hostile, to: socket) -> None:
    """`/hop/3/…` leads over three redirects to a good file, the last of them a relative one."""
    left = int(asked.path.split("/")[2])
    redirect(to, asked.path.replace(f"/{left}/", f"/{left - 1}/")) if left else answer(to, GOOD)


@case
def away(asked: Asked, server: Hostile, to: socket) -> None:
    """`/away/LOCATION` redirects there; PORT stands for the server's own."""
    redirect(to, asked.path.removeprefix("/away/").replace("PORT", str(server.port)))


@case
def v1(asked: Asked, server: Hostile, to: socket) -> None:
    """`/v1/requests/ID/result`."""
    body = server.results[asked.path.split("/")[3]]
    answer(to, body, Content_Type="application/json")


@case
def wide(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, WIDE)


@case
def sound(_asked: Asked, _server: Hostile, to: socket) -> None:
    answer(to, clip("wav", None, "pcm_s16le"))


class _Handler(socketserver.BaseRequestHandler):
    hostile: Hostile
    tls: ssl.SSLContext | None

    def handle(self) -> None:
        with suppress(OSError):
            if self.tls is None:
                self._serve(self.request)
                return
            with self.tls.wrap_socket(self.request, server_side=True) as secured:
                self._serve(secured)

    def _serve(self, to: socket) -> None:
        came = b""
        while b"\r\n\r\n" not in came:
            if not (more := to.recv(65536)):
                return
            came += more
        first, *lines = came.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        path = first.split(" ")[1]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        asked = Asked(path, headers, len(self.hostile.asked[path]))
        self.hostile.asked[path].append(asked)
        if first.startswith("CONNECT "):  # It is taken for a proxy.
            answer(to, b"", 403)
        else:
            CASES[path.split("/")[1]](asked, self.hostile, to)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextmanager
def hostile_cdn(pem: Path | None = None) -> Iterator[Hostile]:
    """The server, for as long as the block lasts; with a certificate it speaks TLS."""
    hostile, tls = Hostile(), None
    if pem:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem)
    handler = type("Handler", (_Handler,), {"hostile": hostile, "tls": tls})
    with _Server(("127.0.0.1", 0), handler) as server:
        hostile.port = server.server_address[1]
        hostile.url = f"{'https' if tls else 'http'}://127.0.0.1:{hostile.port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hostile
        server.shutdown()
        thread.join()
