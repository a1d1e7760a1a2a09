"""An HTTPS server on loopback that speaks HTTP/2 and HTTP/1.1, and remembers which was used."""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Answer = Callable[[str, str], tuple[int, list[tuple[str, str]], bytes]]
"""Method and path → status, headers, body."""


def certificate(directory: Path) -> Path:
    """A certificate for the machine itself with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "loopback.pem"
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@dataclass(frozen=True)
class Seen:
    """One request: over which protocol and connection it came, and with which token."""

    protocol: str
    connection: int
    method: str
    path: str
    authorization: str


@dataclass
class TlsServer:
    """`offers` are the protocols in the server's order of preference, which is what counts.

    While `gate` is closed, answers over HTTP/1.1 wait; `waiting` of them do.
    """

    answer: Answer
    offers: list[str] = field(default_factory=lambda: ["h2", "http/1.1"])
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    shared: list[asyncio.StreamWriter] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    waiting: int = 0

    async def start(self, pem: Path) -> asyncio.Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.set_alpn_protocols(self.offers)
        return await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=context)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        try:
            if protocol == "h2":
                self.shared.append(writer)
                await self._speak_2(reader, writer, number)
            else:
                await self._speak_1(reader, writer, number)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _speak_1(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            fields = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in rest)
            }
            await reader.readexactly(int(fields.get("content-length", 0)))
            method, path, _ = first.split()
            self.seen.append(Seen("http/1.1", number, method, path, fields["authorization"]))
            if not self.gate.is_set():
                async with self.changed:
                    self.waiting += 1
                    self.changed.notify_all()
                await self.gate.wait()
            status, headers, body = self.answer(method, path)
            lines = [f"HTTP/1.1 {status} so", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()

    async def _speak_2(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        speaker = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        speaker.initiate_connection()
        writer.write(speaker.data_to_send())
        while data := await reader.read(65536):
            for event in speaker.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    fields = dict(event.headers)
                    method, path = fields[":method"], fields[":path"]
                    self.seen.append(Seen("h2", number, method, path, fields["authorization"]))
                    status, headers, body = self.answer(method, path)
                    speaker.send_headers(event.stream_id, [(":status", str(status)), *headers])
                    # On its own, so that a client is through with the headers when it comes.
                    writer.write(speaker.data_to_send())
                    await asyncio.sleep(0.02)
                    speaker.send_data(event.stream_id, body, end_stream=True)
            writer.write(speaker.data_to_send())
            await writer.drain()
