"""Metrics and traces on their way out: OpenTelemetry's SDK, imported only where it is asked for.

Where they go is what OpenTelemetry's own variables say, so each exporter reads its own. The
providers are the process's own and not the global ones: what other libraries trace does not appear.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING

import comfyline
from comfyline.config.settings import TelemetrySettings
from comfyline.errors import UsageError
from comfyline.progress import Note, observed_by, tell
from comfyline.redact import without_secrets
from comfyline.telemetry.spans import traced_by

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

NAME = "comfyline"
_LEAVE_WITHIN = 5.0
"""Seconds for what is not delivered yet; a collector that is away must not hold a run up."""
_WORDS = {
    "opentelemetry.util.re": "OTEL_EXPORTER_OTLP_HEADERS, or its like for metrics or traces, is no "
    "list of name=value with commas between: what is wrong in it is left out",
    "opentelemetry.exporter": "Metrics or traces do not reach the collector: does it run, is "
    "OTEL_EXPORTER_OTLP_ENDPOINT right, does it take these headers? The run goes on without",
    "opentelemetry.sdk": "Some metrics or traces are not exported; the run goes on without",
}
"""What is said in the place of OpenTelemetry's loggers."""


@dataclass(slots=True)
class Exporters:
    """What is measured goes here; `stop` delivers the rest, and blocks meanwhile."""

    meter: "Meter | None" = None
    tracer: "Tracer | None" = None
    no_page: str = ""
    """Why there is no page for Prometheus although it was asked for."""
    _at_the_end: list[Callable[[], object]] = field(default_factory=list)

    def stop(self) -> None:
        """Deliver what is left, and close the page; what takes too long is left to itself."""
        ending = [Thread(target=_end, args=(one,), daemon=True) for one in self._at_the_end]
        for thread in ending:
            thread.start()
        deadline = time.monotonic() + _LEAVE_WITHIN
        for thread in ending:
            thread.join(max(0.0, deadline - time.monotonic()))

    def at_the_end(self, end: Callable[[], object]) -> None:
        """Have something called by `stop`."""
        self._at_the_end.append(end)


def _end(end: Callable[[], object]) -> None:
    # Whatever it is: the run is over, and all it made is stored.
    with suppress(Exception):
        end()


@asynccontextmanager
async def telemetry(settings: TelemetrySettings, instance: str) -> AsyncIterator[None]:
    """Measure and trace what happens in the block, as far as the settings ask for it.

    A run goes on without what is not installed, or whose port is taken, and says so.
    """
    if settings.mistake:
        tell(Note(f"Nothing is exported: {settings.mistake}"))
    if not settings.is_on:
        yield
        return
    try:
        exporters = await asyncio.to_thread(start, settings, instance)
    except UsageError as error:
        tell(Note(str(error)))
        yield
        return
    if exporters.no_page:
        tell(Note(f"{exporters.no_page}. `comfyline metrics` keeps one for all processes"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, exporters.stop)
        if exporters.meter:
            from comfyline.telemetry.metrics import RunMetrics

            stack.enter_context(observed_by(RunMetrics(exporters.meter, settings.labels)))
        if exporters.tracer:
            stack.enter_context(traced_by(exporters.tracer))
        yield


def start(settings: TelemetrySettings, instance: str) -> Exporters:
    """Start the exporters; `instance` tells this process's series from all others'. Blocks.

    Raises `UsageError` where OpenTelemetry's SDK is not installed, or does not take its variables.
    """
    try:
        return _started(settings, instance)
    except ImportError:
        raise UsageError(
            "Metrics and traces are asked for, and OpenTelemetry is not installed",
            hint="pip install 'comfyline[telemetry]', or set OTEL_SDK_DISABLED=true.",
        ) from None
    except Exception as error:
        raise UsageError(
            f"OpenTelemetry cannot be started: {without_secrets(str(error))}",
            hint="Correct its variables (OTEL_…), or set OTEL_SDK_DISABLED=true.",
        ) from error


class _SaidOnce(logging.Handler):
    """Says once, in our words, what OpenTelemetry logs at every try.

    Its own words quote a header that it cannot read, which is a password as a rule.
    """

    def __init__(self, words: str) -> None:
        super().__init__(logging.WARNING)
        self._words = words

    def emit(self, _: logging.LogRecord) -> None:
        """Log the words the first time."""
        if self._words:
            log.warning("%s", self._words)
            self._words = ""


def _started(settings: TelemetrySettings, instance: str) -> Exporters:
    from opentelemetry.sdk.resources import Resource

    ours = {
        "service.name": NAME,
        "service.version": comfyline.__version__,
        "service.instance.id": instance,
    }
    for name, words in _WORDS.items():
        logger = logging.getLogger(name)
        logger.propagate, logger.handlers = False, [_SaidOnce(words)]
    # What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say goes before ours.
    said = Resource.create().attributes
    named = {key: value for key, value in said.items() if not str(value).startswith("unknown_")}
    resource = Resource({**ours, **named})
    exporters = Exporters()
    if settings.metrics:
        _start_metrics(exporters, settings, resource)
    if settings.traces:
        _start_traces(exporters, resource)
    return exporters


def _start_metrics(exporters: Exporters, settings: TelemetrySettings, resource: "Resource") -> None:
    from opentelemetry.sdk.metrics import MeterProvider

    readers: list[MetricReader] = []
    if "otlp" in settings.metrics:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if "prometheus" in settings.metrics:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import start_http_server

        host, port = settings.page
        try:
            server, _ = start_http_server(port, host)
        except OSError as error:
            why = error.strerror or "this address cannot be used"
            exporters.no_page = f"No page for Prometheus at {host}:{port}: {why}"
        else:
            readers.append(PrometheusMetricReader())

            def close() -> None:
                server.shutdown()
                server.server_close()

            exporters.at_the_end(close)
    provider = MeterProvider(readers, resource, shutdown_on_exit=False)
    exporters.at_the_end(provider.shutdown)
    exporters.meter = provider.get_meter(NAME, comfyline.__version__)


def _start_traces(exporters: Exporters, resource: "Resource") -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    exporters.at_the_end(provider.shutdown)
    exporters.tracer = provider.get_tracer(NAME, comfyline.__version__)
