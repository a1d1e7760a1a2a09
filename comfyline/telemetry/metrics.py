"""The names of all metrics: what a run counts, and what the ledger shows.

`RunMetrics` hears the events of a run in its own process; `LedgerMetrics` shows the ledger as it
was last read, over all processes, for as long as `comfyline metrics` runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from comfyline.job import Job
from comfyline.progress import (
    BudgetUsed,
    Event,
    JobCharged,
    JobEnded,
    JobGenerated,
    RunEnded,
    RunPlanned,
    Transferred,
)

_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_SECONDS = (0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300)

Attributes = Mapping[str, str]


class RunMetrics:
    """Counts the events of one run; an observer for `progress.observed_by`.

    `labels` are the pipeline's labels that become attributes: each value makes series of its own.
    """

    def __init__(self, meter: Meter, labels: Sequence[str]) -> None:
        self._labels = labels
        self._pipeline = ""
        self._charged: set[str] = set()
        self._jobs = meter.create_counter("comfyline_jobs_total", "{job}", "Jobs by how they ended")
        self._runs = meter.create_counter("comfyline_runs_total", "{run}", "Runs by how they ended")
        self._errors = meter.create_counter("comfyline_errors_total", "{error}", "Errors by kind")
        self._cost = meter.create_counter(
            "comfyline_cost_usd_total", "{USD}", "What RunComfy says that completed requests cost"
        )
        self._bytes = meter.create_counter(
            "comfyline_bytes_total", "By", "Bytes uploaded, fetched and stored"
        )
        self._queue = meter.create_histogram(
            "comfyline_queue_seconds",
            "s",
            "From being accepted to being worked on, as near as the polls tell",
            explicit_bucket_boundaries_advisory=_MINUTES,
        )
        self._generation = meter.create_histogram(
            "comfyline_generation_seconds",
            "s",
            "From being worked on to the end, as near as the polls tell",
            explicit_bucket_boundaries_advisory=_MINUTES,
        )
        self._lag = meter.create_histogram(
            "comfyline_detection_lag_seconds",
            "s",
            "From the last answer before the end to the one that tells of it: it lies in between",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._budget = meter.create_gauge(
            "comfyline_budget_ratio", "1", "Share of a limit that is spent or set aside"
        )

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case RunPlanned():
                self._pipeline = event.pipeline
            case JobGenerated(job):
                about = self._about(job)
                if event.queue_seconds is not None:
                    self._queue.record(event.queue_seconds, about)
                if event.generation_seconds is not None:
                    self._generation.record(event.generation_seconds, about)
                self._lag.record(event.lag_seconds, about)
            case JobCharged(job) if event.request_id not in self._charged:
                self._charged.add(event.request_id)
                self._cost.add(event.cost_usd, self._about(job))
            case Transferred():
                about = {"pipeline": self._pipeline, "direction": event.direction}
                self._bytes.add(event.bytes, about)
            case JobEnded(outcome):
                self._charged.discard(outcome.request_id or "")
                about = self._about(outcome.job)
                state = "reused" if outcome.reused else outcome.state.value
                self._jobs.add(1, {**about, "state": state})
                if outcome.error:
                    self._errors.add(1, {**about, "kind": outcome.error.kind})
            case BudgetUsed() if event.limit_usd > 0:
                about = {"pipeline": self._pipeline, "limit": event.limit}
                self._budget.set(event.used_usd / event.limit_usd, about)
            case RunEnded():
                self._runs.add(1, {"pipeline": self._pipeline, "state": event.state})
            case _:
                pass

    def _about(self, job: Job) -> dict[str, str]:
        told = {"pipeline": job.pipeline, "model": job.model_id}
        return told | {f"label_{name}": job.labels.get(name, "") for name in self._labels}


Values = Mapping[str, Sequence[tuple[float, Attributes]]]
"""What there is to show: numbers with their attributes, by the names of metrics."""

# A unit of "1" would give some of these another name on their way through a collector.
_SHOWN = {
    "comfyline_ledger_up": ("{bool}", "Whether the ledger could be read last time"),
    "comfyline_jobs": ("{job}", "Jobs that are not finished, by state"),
    "comfyline_in_doubt": ("{job}", "Jobs of which nobody knows whether RunComfy has them"),
    "comfyline_oldest_unstored_seconds": ("s", "Age of the oldest paid and unstored result"),
    "comfyline_day_jobs": ("{job}", "Jobs submitted since midnight UTC, by state"),
    "comfyline_day_cost_usd": ("{USD}", "What they have cost so far"),
    "comfyline_last_completed_timestamp_seconds": ("s", "When a run was last completed"),
}


class LedgerMetrics:
    """Shows the last reading of the ledger; what could not be read is not shown."""

    def __init__(self, meter: Meter) -> None:
        self.values: Values = {}
        for name, (unit, words) in _SHOWN.items():
            meter.create_observable_gauge(name, [self._of(name)], unit, words)

    def _of(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(*one) for one in self.values.get(name, ())]

        return observe
