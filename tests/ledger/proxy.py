"""A proxy before a PostgreSQL server that can be away, or cut a connection right at a COMMIT."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from sqlalchemy import make_url

Cut = Literal["before", "after"]
"""Whether the server got the COMMIT whose answer nobody gets."""

_COMMIT = b"COMMIT\0"
_READY = b"Z\0\0\0\5I"
"""The end of the server's answer: no transaction is open."""
_TLS = 8
"""The length of the question whether the server speaks TLS, which may come first."""


class Proxy:
    """Hands bytes on between the ledger and the server, until it is told not to.

    `cut` cuts the connection at the next COMMIT, `cuts` counts those, and with `goes_away_then`
    nobody is let in from then on. `hello` is what the last client said first.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._server = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        here = parsed.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
        self.url = here.render_as_string(hide_password=False)
        self.hello = b""
        self.cut: Cut | None = None
        self.goes_away_then = False
        self.has_cut = threading.Event()
        self._is_away = False
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def goes_away(self) -> None:
        """Ends every connection, and each new one at once."""
        self._is_away = True
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def comes_back(self) -> None:
        self._is_away = False

    def close(self) -> None:
        self.goes_away()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_away:
                    client.close()
                else:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError):
            server.connect(self._server)
            self._open |= {client, server}
            self._hand_on(client, server)
        self._open -= {client, server}

    def _hand_on(self, client: socket.socket, server: socket.socket) -> None:
        is_new = True
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                if source is client:
                    if is_new and len(data) > _TLS:
                        self.hello, is_new = data, False
                    if self.cut and _COMMIT in data:
                        self._cut_off(server, data)
                        return
                (server if source is client else client).sendall(data)

    def _cut_off(self, server: socket.socket, commit: bytes) -> None:
        how, self.cut = self.cut, None
        if how == "after":
            server.sendall(commit)
            answer = b""
            while not answer.endswith(_READY):
                answer += server.recv(65536)
        self._is_away = self.goes_away_then
        self.has_cut.set()


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    one = Proxy(url)
    try:
        yield one
    finally:
        one.close()
