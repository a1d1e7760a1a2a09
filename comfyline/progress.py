"""What a run tells while it works: a few events, and whoever wants to hear them.

The library reports and never prints. The live display and the log are two observers; those in
force are found by context, because flow parameters must stay plain JSON.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from comfyline.job import JobState, Stage


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
class JobEnded:
    """A job left the run in `state`; `message` says why when it is not `persisted`.

    With `cost_unknown` it was paid for, and nobody knows how much.
    """

    job: str
    label: str
    state: JobState
    cost_usd: float | None
    message: str = ""
    cost_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line that belongs to no single job."""

    text: str


@dataclass(frozen=True, slots=True)
class RunReported:
    """Everything is written down: `summary` is the path of the run's JSON."""

    summary: str


Event = RunPlanned | StageEntered | Submitted | JobEnded | Note | RunReported
Observer = Callable[[Event], None]


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("comfyline_observers", default=())


def tell(event: Event) -> None:
    """Hand one event to the observers in force; without one it goes nowhere."""
    for observe in _observers.get():
        observe(event)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Make `observer` hear too what is told inside the block, also from tasks started there."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)
