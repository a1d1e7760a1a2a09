"""What one run asks for, and what became of each of its jobs."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from comfyline.cancel_token import current_stop
from comfyline.errors import ComfylineError, Unreachable
from comfyline.job import CheckedJob, FetchedFile, Job, JobState, Stage, StoredOutput
from comfyline.media.similar import NamedAppearance


@dataclass(frozen=True, slots=True)
class CostLimits:
    """What a run may spend, in US dollars; None is no limit.

    `per_day` bounds one pipeline over all its runs of one UTC day. `ceilings` says by model id what
    to set aside where no price is known; without one, such a job fits under a limit only with
    `allow_unknown`.
    """

    per_run: float | None = None
    per_day: float | None = None
    ceilings: Mapping[str, float] = field(default_factory=dict)
    allow_unknown: bool = False


class Run:
    """One execution of a pipeline: its options, and the slots its jobs share.

    `timeout` is in seconds, for one job from submit to completed; `least_wait` is how long a job
    is waited for even when that time is over. `in_flight` bounds this run, the profile's bound is
    over all processes. With `collects_only` nothing is ever submitted, and nothing withdrawn. With
    `verify` a stored file counts as there only when its bytes are read and right; with `new_only`
    what an earlier run of the pipeline stored counts as there wherever it lies. `hands_on` are the
    steps whose outputs other steps take. `contact_sheet` is
    the file name of a picture of all outputs, None for no such picture.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002  # the run's id
        pipeline: str,
        in_flight: int,
        timeout: float,
        costs: CostLimits,
        refresh: bool,
        least_wait: float = 0,
        collects_only: bool = False,
        verify: bool = False,
        new_only: bool = False,
        hands_on: frozenset[str] = frozenset(),
        contact_sheet: str | None = None,
    ) -> None:
        self.id = id
        self.pipeline = pipeline
        self.in_flight = in_flight
        self.timeout = timeout
        self.costs = costs
        self.refresh = refresh
        self.collects_only = collects_only
        self.verify = verify
        self.new_only = new_only
        self.hands_on = hands_on
        self.contact_sheet = contact_sheet
        self.stop = current_stop()
        self.stop.is_heeded = True
        self.slots = asyncio.Semaphore(in_flight)
        self.submitted = 0
        # Folders of which most is gone, by their address: nothing is stored there, nor fetched.
        self.away: dict[str, Unreachable] = {}
        self.began: datetime | None = None
        """When this try began, by the ledger's clock; a run that is retried keeps its id."""
        # By step and job: what no later output may look like, where the step checks for that.
        self.seen: dict[str, dict[str, tuple[NamedAppearance, ...]]] = {}
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
    """What RunComfy has of a job: which attempt, under which request id, since when.

    `copies` are outputs stored before, which spare a download.
    """

    attempt_id: int
    attempt: int
    state: JobState
    request_id: str
    submitted_at: datetime
    copies: tuple[StoredOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job in this run.

    With `cost_unknown` the run has paid for it, and RunComfy did not tell how much. With `is_old`
    an earlier run of the pipeline made it and put it elsewhere, where it stays.
    """

    job: Job
    key: str
    state: JobState
    checked: CheckedJob | None = None
    outputs: tuple[StoredOutput, ...] = ()
    reused: bool = False
    cost_usd: float | None = None
    cost_unknown: bool = False
    seconds: float | None = None
    request_id: str | None = None
    stage: Stage | None = None
    error: ComfylineError | None = None
    is_old: bool = False
