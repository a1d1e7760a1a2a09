"""`python -m benchmarks.cdn FILE`: the plainest server there is for one file; it tells its port."""

import http.server
import os
import sys
from pathlib import Path


class _OneFile(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path

    def do_GET(self) -> None:
        """Hand the file to the kernel, which sends it."""
        with self.file.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(file: str) -> None:
    """Serve until it is ended."""
    handler = type("Handler", (_OneFile,), {"file": Path(file)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
