"""A CDN that does everything wrong that one can, byte by byte, over connections on loopback."""

import gzip
import io
import random
import re
import socketserver
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from socket import socket

from PIL import Image

from tests.media.clips import bomb, clip, picture

GOOD = picture("PNG", (600, 400))
"""A picture of which every byte counts, larger than any buffer on the way would hide."""
OTHER = picture("PNG", (200, 300))
WIDE = picture("JPEG", (300, 100))
PAGE = b"<!doctype html><title>One moment</title>" + b" " * 5000
_HALF = len(GOOD) // 2
_ARRIVES = 0.05
"""Seconds for what was sent to be read: what the end of a connection overtakes is lost."""
_AT_A_TIME = 2_000_000


@cache
def large() -> bytes:
    """A picture of 11 MB."""
    buffer = io.BytesIO()
    size = (2000, 1800)
    noise = random.Random(1).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, noise).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@dataclass(frozen=True)
class Asked:
    """One request as it came: its path, its headers, how many came for this path before it."""

    path: str
    headers: dict[str, str]
    before: int

    @property
    def start(self) -> int:
        """From which byte on the file is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@dataclass
class Hostile:
    """The server's address and all that it was asked, by path.

    As RunComfy's API it has these results, by request id.
    """

    url: str = ""
    port: int = 0
    results: dict[str, bytes] = field(default_factory=dict)
    asked: dict[str, list[Asked]] = field(default_factory=lambda: defaultdict(list))


def head(status: int = 200, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # Said, because each connection is closed after its answer: one that looked idle would be used.
    lines = [f"{name}: {value}" for name, value in ({"Connection": "close"} | named).items()]
    return "\r\n".join([f"HTTP/1.1 {status} So", *lines, "", ""]).encode("latin-1")


def reply(body: bytes, status: int = 200, **headers: str) -> bytes:
    return head(status, **{"Content_Length": str(len(body))} | headers) + body


def part(content: bytes, start: int, **headers: str) -> bytes:
    spread = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return reply(content[start:], 206, **{"Content_Range": spread, "ETag": '"one"'} | headers)


ALWAYS: dict[str, Callable[[], bytes]] = {
    "good": lambda: reply(
        GOOD,
        Content_Disposition='attachment; filename="../../../evil.png"',
        Set_Cookie="id=1; Path=/",
    ),
    "wide": lambda: reply(WIDE),
    "sound": lambda: reply(clip("wav", None, "pcm_s16le")),
    "truncated": lambda: reply(GOOD)[:-_HALF],
    "truncated_without_length": lambda: head() + GOOD[:_HALF],
    "empty": lambda: reply(b"", Content_Type="image/png"),
    "page": lambda: reply(PAGE, Content_Type="image/png"),
    "video": lambda: reply(clip("mp4"), Content_Type="image/png"),
    "png_bomb": lambda: reply(bomb()),
    "packed": lambda: reply(gzip.compress(GOOD), Content_Encoding="gzip"),
    "packed_and_cut": lambda: reply(gzip.compress(GOOD)[:-100], Content_Encoding="gzip"),
    "packed_wrongly": lambda: reply(GOOD, Content_Encoding="gzip"),
    "packed_otherwise": lambda: reply(GOOD, Content_Encoding="br"),
    "gzip_bomb": lambda: reply(gzip.compress(GOOD + bytes(20_000_000)), Content_Encoding="gzip"),
    "length_too_short": lambda: reply(GOOD, Content_Length=str(_HALF)),
    "length_too_long": lambda: reply(GOOD, Content_Length=str(len(GOOD) + 1)),
    "length_beyond_the_limit": lambda: reply(GOOD, Content_Length=str(10**12)),
    "part_nobody_asked_for": lambda: part(GOOD, 0),
    "no_http": lambda: b"SSH-2.0-OpenSSH_9.6\r\n",
}
WITHOUT_END = {
    "endless": (head() + GOOD, bytes(100_000)),
    "endless_page": (head(), PAGE),
    "endless_head": (b"HTTP/1.1 200 So\r\n", b"X-Much: " + b"x" * 5000 + b"\r\n"),
}
AFTER_A_BREAK: dict[str, Callable[[int], bytes]] = {
    # What is answered from that byte on, after the first answer stopped in the middle.
    "resumed": lambda start: part(GOOD, start),
    "ranges_ignored": lambda _: reply(GOOD, ETag='"one"'),
    "no_tag_to_go_on_by": lambda _: reply(GOOD),
    "changed_in_between": lambda _: reply(OTHER, ETag='"two"'),
    "part_of_another_file": lambda at: part(GOOD, at, ETag='"two"') if at else reply(GOOD),
    "another_part": lambda start: part(GOOD, 7) if start else reply(GOOD),
    "range_refused": lambda start: reply(b"", 416) if start else reply(GOOD),
}


def answer(asked: Asked, server: Hostile) -> Iterator[bytes]:  # noqa: PLR0912  # a list of cases
    """What is sent to a request, by the first part of its path."""
    name, _, rest = asked.path.removeprefix("/").partition("/")
    if name in ALWAYS:
        yield ALWAYS[name]()
    elif name in WITHOUT_END:
        yield from chain(WITHOUT_END[name][:1], repeat(WITHOUT_END[name][1]))
    elif name in AFTER_A_BREAK:
        if asked.before:
            yield AFTER_A_BREAK[name](asked.start)
        else:
            tag = 'W/"weak"' if name == "no_tag_to_go_on_by" else '"one"'
            yield reply(GOOD, ETag=tag, Content_Encoding="Identity")[:-_HALF]
            time.sleep(_ARRIVES)
    elif name == "many_breaks":
        start = asked.start
        whole = part(large(), start) if start else reply(large(), ETag='"one"')
        yield whole[:_AT_A_TIME]
        time.sleep(_ARRIVES)
    elif name == "never_whole":
        yield reply(b"", 416) if asked.start else reply(large(), ETag='"one"')[:_AT_A_TIME]
        time.sleep(_ARRIVES)
    elif name == "trickle":
        whole = reply(GOOD)
        for at in range(0, len(whole), 100):
            yield whole[at : at + 100]
            time.sleep(_ARRIVES)
    elif name == "page_once":
        yield reply(GOOD if asked.before else PAGE)
    elif name == "status":  # `/status/403/…`
        yield reply(b"", int(rest.split("/")[0]))
    elif name == "away":  # `/away/LOCATION`; PORT stands for the server's own.
        yield reply(b"moved", 302, Location=rest.replace("PORT", str(server.port)))
    elif name == "hop":  # `/hop/3/…` leads over three redirects to a good file.
        left = int(rest.split("/")[0])
        location = asked.path.replace(f"/{left}/", f"/{left - 1}/")
        yield reply(b"moved", 302, Location=location) if left else reply(GOOD)
    elif name == "v1":  # `/v1/requests/ID/result`
        yield reply(server.results[rest.split("/")[1]], Content_Type="application/json")
    else:  # `CONNECT host:port`: it is taken for a proxy.
        yield reply(b"", 403)


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
        for piece in answer(asked, self.hostile):
            to.sendall(piece)


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
