"""A real SFTP server in this process, with a root of its own and one user."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

USER, PASSWORD = "painter", "swordfish"


@dataclass(frozen=True, slots=True)
class Sftp:
    """Where the server listens, what lies there, and the line by which it is known."""

    base: str
    root: Path
    known_hosts: str
    connections: list[Any]


class _Server(asyncssh.SSHServer):
    def __init__(self, connections: list[Any]) -> None:
        self._connections = connections

    def connection_made(self, conn: Any) -> None:
        self._connections.append(conn)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  # asyncssh's signature
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[Sftp]:
    """Serves a folder until the block ends, and drops whoever is still connected then."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    connections: list[Any] = []
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Server(connections),
        server_host_keys=[key],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=bytes(root)),
    )
    port = server.get_port()
    known = f"[127.0.0.1]:{port} {key.export_public_key().decode()}"
    try:
        yield Sftp(f"sftp://127.0.0.1:{port}", root, known, connections)
    finally:
        server.close()
        for connection in connections:
            connection.abort()
        await server.wait_closed()
        # The aborted sockets are closed in the loop's next rounds.
        for _ in range(3):
            await asyncio.sleep(0)
