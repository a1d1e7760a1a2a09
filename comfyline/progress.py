"""What a run tells while it works: a few events, and whoever wants to hear them.

The library reports and never prints. The live display, the log, Prefect's events and the metrics
are observers; those in force are found by context, because flow parameters must stay plain JSON.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from comfyline.job import CheckedJob, Job, JobState, Stage
from comfyline.run import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunPlanned:
    """The jobs are known: `jobs` in all, of which `reused` are there already.

    `estimate_usd` is for the jobs still to be made, None when a price is unknown.
    """

    run_id: str
    pipeline: str
    jobs: int
    reused: int
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class StageEntered:
    """A job begins a stage; `job` identifies it within the run, `label` is for people."""

    job: str
    label: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class Submitted:
    """A POST that costs money has left; its answer may be anything."""

    job: str


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """RunComfy has accepted a job under a request id, and the ledger has it."""

    checked: CheckedJob
    request_id: str


@dataclass(frozen=True, slots=True)
class JobGenerated:
    """RunComfy has ended a request, as far as asking tells; None where nobody saw it begin.

    Seconds in the queue and at work. It ended at some moment in the last `lag_seconds`.
    """

    job: Job
    queue_seconds: float | None
    generation_seconds: float | None
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class JobCharged:
    """A result says what its request cost. It may be told again when the result is read again."""

    job: Job
    request_id: str
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Transferred:
    """Bytes of a job's media went up to the storage, came from RunComfy, or were stored."""

    direction: Literal["uploaded", "fetched", "stored"]
    bytes: int


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job left the run."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BudgetUsed:
    """So much of a limit is spent or set aside; `limit` is `run`, or `day` of a pipeline."""

    limit: str
    limit_usd: float
    used_usd: float


@dataclass(frozen=True, slots=True)
class ResultsAtRisk:
    """Jobs are paid for and not stored for so long that RunComfy will soon delete their results."""

    jobs: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class DoubtFound:
    """A submission is in doubt and nobody was told, because the process that made it has died."""

    key: str
    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class ShardsProgressed:
    """How far other processes are that share the run: the sums of all their jobs until now.

    `ends` are by state the jobs that have ended.
    """

    ends: Mapping[JobState, int] = field(default_factory=dict)
    submitted: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line that belongs to no single job."""

    text: str


@dataclass(frozen=True, slots=True)
class RunReported:
    """Everything is written down: `summary` is the path of the run's JSON."""

    summary: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over: `completed`, `failed`, `unfinished` or `cancelled`, and why."""

    state: str
    message: str
    cost_usd: float | None = None
    seconds: float | None = None


Event = (
    RunPlanned
    | StageEntered
    | Submitted
    | JobAccepted
    | JobGenerated
    | JobCharged
    | Transferred
    | JobEnded
    | BudgetUsed
    | ResultsAtRisk
    | DoubtFound
    | ShardsProgressed
    | Note
    | RunReported
    | RunEnded
)
Observer = Callable[[Event], None]


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("comfyline_observers", default=())


def tell(event: Event) -> None:
    """Hand one event to the observers in force; without one it goes nowhere.

    An observer that fails costs nobody a result that was paid for.
    """
    for observe in _observers.get():
        try:
            observe(event)
        except Exception as error:  # noqa: BLE001  # whatever it is, the work goes on
            log.warning("An observer failed at %s: %s", type(event).__name__, type(error).__name__)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Make `observer` hear too what is told inside the block, also from tasks started there."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)
