"""An HTTP server that notes every request whole, and gives the answer that lies ready."""

import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any


@dataclass(frozen=True)
class Sent:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: Message
    body: bytes


@dataclass
class Recorder:
    """What came, and what is answered to whatever comes next."""

    url: str = ""
    sent: list[Sent] = field(default_factory=list)
    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        """Lays an answer ready, and forgets what came before it."""
        self.status, self.body, self.headers = status, body, headers
        self.sent.clear()


def _handler(recorder: Recorder) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body go out as one packet, and at once.
        wbufsize = -1
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorder.sent.append(Sent(self.command, self.path, self.headers, body))
            self.send_response(recorder.status)
            named = {
                "Content-Type": "application/json",
                "Content-Length": str(len(recorder.body)),
                **recorder.headers,
            }
            for name, value in named.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(recorder.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  # http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def recording() -> Iterator[Recorder]:
    """Runs the server on loopback."""
    recorder = Recorder()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(recorder))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    recorder.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
