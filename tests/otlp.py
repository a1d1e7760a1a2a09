"""A collector on loopback that speaks OTLP over HTTP and keeps what it is sent."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What has arrived: metrics by name, spans, and every byte."""

    def __init__(self) -> None:
        self.url = ""
        self.raw = b""
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        """The last export of each metric."""

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [one for scope in resource.scope_spans for one in scope.spans]
        if path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {one.name: one for one in scope.metrics}

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """The attributes and the value of each point of a metric; a histogram's is its count."""
        metric = self.metrics[name]
        kind = metric.WhichOneof("data")
        return [
            (attributes(one), one.count if kind == "histogram" else one.as_double or one.as_int)
            for one in getattr(metric, kind).data_points
        ]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The attributes of every span of a name, with its id, its parent's and its trace's."""
        return [
            {
                **attributes(one),
                "id": one.span_id,
                "parent": one.parent_span_id,
                "trace": one.trace_id,
            }
            for one in self.spans
            if one.name == name
        ]


def attributes(told: Any) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in told.attributes
    }


@contextmanager
def collector() -> Iterator[Collector]:
    taken = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            taken.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    taken.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
