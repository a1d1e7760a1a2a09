"""A proxy in front of an S3 server that does to some requests what networks and servers do."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_CHUNK = 64 * 1024


@dataclass
class Fault:
    """What happens to requests whose first line matches, and to how many of them.

    `busy` answers 503, `reset` and `stall` break off or stand still in the middle of a body,
    `damage` changes a byte on the way to the server.
    """

    kind: str
    request: str
    times: int = 1
    seen: int = 0

    def strikes(self, first_line: str) -> bool:
        if not re.search(self.request, first_line) or self.seen >= self.times:
            return False
        self.seen += 1
        return True


@dataclass
class Proxy:
    """One server seen through faults. Every request has a connection of its own.

    With `region` whoever signs for another one is sent there, as S3 does.
    """

    upstream: str
    url: str = ""
    region: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    def asked(self) -> list[str]:
        """What was asked for: the method of each request, and LIST for a listing."""
        lines = [one.partition("\r\n")[0] for one in self.requests]
        return ["LIST" if "list-type=2" in line else line.split()[0] for line in lines]

    def order(self, kind: str, request: str, times: int = 1) -> Fault:
        self.faults.append(Fault(kind, request, times))
        return self.faults[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            # Who gives up closes the connection, in the middle of whatever there is.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode()
        line = head.partition("\r\n")[0]
        self.requests.append(head)
        fault = next((one.kind for one in self.faults if one.strikes(line)), "")
        size = _length(head)
        if "100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        refused = ""
        if fault == "busy":
            refused = "503 Slow Down"
        elif self.region and not re.search(rf"(/|%2F){self.region}(/|%2F)", head):
            refused = f"301 Moved Permanently\r\nx-amz-bucket-region: {self.region}"
        if refused:
            await reader.readexactly(size)
            body = b"" if line.startswith("HEAD") else BUSY
            answer = f"HTTP/1.1 {refused}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
            writer.write(answer.encode() + b"\r\n" + body)
            await writer.drain()
            return
        parts = urlsplit(self.upstream)
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            kept = re.sub(r"(?im)^(connection|expect):.*\r\n", "", head)
            far_writer.write(f"{kept}\r\nConnection: close\r\n\r\n".encode())
            ends = fault if size else ""
            if not await _copy(reader, far_writer, size, ends):
                await _break_off(writer, fault)
                return
            answer_head = await far_reader.readuntil(b"\r\n\r\n")
            in_answer = "" if size else fault
            length = _length(answer_head.decode("latin-1"))
            if in_answer in {"reset", "stall"} and line.startswith("HEAD"):
                await _break_off(writer, fault)
                return
            writer.write(answer_head)
            if not await _copy(far_reader, writer, length or None, in_answer):
                await _break_off(writer, fault)
        finally:
            far_writer.transport.abort()

    async def close(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def proxy_of(upstream: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy of its own for a test; with `tls` it speaks HTTPS."""
    proxy = Proxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls, limit=_CHUNK)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int | None, fault: str
) -> bool:
    """Passes a body on, to its end where there is no size; False when it stops in the middle."""
    stop = (size or 0) // 2 if fault in {"reset", "stall"} else None
    done = 0
    while size is None or done < size:
        if stop is not None and done >= stop:
            return False
        most = min(_CHUNK, (size or _CHUNK + done) - done, (stop or _CHUNK + done) - done)
        chunk = await reader.read(max(1, most))
        if not chunk:
            break
        if fault == "damage" and done == 0:
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
        writer.write(chunk)
        await writer.drain()
        done += len(chunk)
    return stop is None


async def _break_off(writer: asyncio.StreamWriter, fault: str) -> None:
    if fault == "stall":
        # Nothing is read and nothing is said until the other side has had enough.
        await asyncio.sleep(3600)
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


def _length(head: str) -> int:
    found = re.search(r"(?im)^content-length:\s*(\d+)", head)
    return int(found[1]) if found else 0
