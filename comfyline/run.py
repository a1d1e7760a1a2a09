"""What one run asks for, and what became of each of its jobs."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from comfyline.errors import ComfylineError
from comfyline.job import CheckedJob, FetchedFile, Job, JobState, Stage, StoredOutput


class Run:
    """One execution of a pipeline: its options, and the slots its jobs share.

    `timeout` is in seconds, for one job from submit to completed; `least_wait` is how long a job
    is waited for even when that time is over. `in_flight` bounds this run, the profile's bound is
    over all processes. With `collects_only` nothing is ever submitted.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002  # the run's id
        pipeline: str,
        in_flight: int,
        timeout: float,
        max_cost_usd: float | None,
        refresh: bool,
        least_wait: float = 0,
        collects_only: bool = False,
    ) -> None:
        self.id = id
        self.pipeline = pipeline
        self.in_flight = in_flight
        self.timeout = timeout
        self.max_cost_usd = max_cost_usd
        self.refresh = refresh
        self.collects_only = collects_only
        self.slots = asyncio.Semaphore(in_flight)
        self.submitted = 0
        self._least_wait = least_wait

    def time_left(self, age: float) -> float:
        """Seconds for which a request of this age is still waited for."""
        return max(self.timeout - age, self._least_wait)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class UploadedInputs:
    """Where a job's media lie so that RunComfy can get at them, in the order of `checked.media`.

    Plain addresses: a presigned URL is made only at the moment of submitting.
    """

    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class FetchedOutputs:
    """A job's outputs on local disk, in order."""

    files: tuple[FetchedFile, ...]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Submission:
    """A job that RunComfy has: which attempt, under which request id, since when.

    `copies` are outputs stored before, which spare a download.
    """

    checked: CheckedJob
    attempt_id: int
    attempt: int
    state: JobState
    request_id: str
    submitted_at: datetime
    copies: tuple[StoredOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job in this run."""

    job: Job
    key: str
    state: JobState
    checked: CheckedJob | None = None
    outputs: tuple[StoredOutput, ...] = ()
    reused: bool = False
    cost_usd: float | None = None
    seconds: float | None = None
    request_id: str | None = None
    stage: Stage | None = None
    error: ComfylineError | None = None
