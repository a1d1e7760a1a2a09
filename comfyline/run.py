"""What one run asks for, how it is cancelled, and what became of each of its jobs."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

from comfyline.errors import ComfylineError, Unreachable
from comfyline.fair_share import FairSlots, share_of
from comfyline.job import CheckedJob, FetchedFile, Job, JobState, Stage, StoredOutput
from comfyline.media.similar import NamedAppearance


class CancelToken:
    """Tells a run to stop: it submits nothing more and cancels what is queued.

    Whoever starts a flow puts one in force by context, because flow parameters must stay plain
    JSON. To be cancelled in the thread of the event loop.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.is_watched = False
        """Whether a run looks at it already; before that, nothing has begun."""
        self.may_hand_over = self.hands_over = False
        """Whether others could go on if this process has to end, and whether they do: then
        nothing is cancelled at RunComfy."""
        self._cancelled = asyncio.Event()
        self._sending = 0
        self._sent = asyncio.Event()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Mark a POST under way: whoever leaves before its answer is recorded leaves a doubt."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._sent.set()
                self._sent.clear()

    async def nothing_sending(self, seconds: float) -> None:
        """Wait until no POST is under way, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._sending:
                    await self._sent.wait()

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was stopped."""
        return self._cancelled.is_set()

    def cancel(self, reason: str) -> None:
        """Tell the run to stop; the first reason counts."""
        self.reason = self.reason or reason
        self._cancelled.set()

    async def cancelled(self) -> None:
        """Wait until the run is told to stop."""
        await self._cancelled.wait()

    async def cancelled_within(self, seconds: float) -> None:
        """Wait until the run is told to stop, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._cancelled.wait()


_token: ContextVar[CancelToken | None] = ContextVar("comfyline_cancel_token", default=None)


def current_token() -> CancelToken:
    """Return the token in force, or a new one, which nobody cancels."""
    return _token.get() or CancelToken()


@contextmanager
def cancelled_by(token: CancelToken) -> Iterator[None]:
    """Put a token in force for what is started inside the block."""
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)


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
    over all processes. With `collects_only` nothing is ever submitted, and nothing cancelled. With
    `verify` a stored file counts as there only when its bytes are read and right; with `new_only`
    what an earlier run of the pipeline stored counts as there wherever it lies. `hands_on` are the
    steps whose outputs other steps take. `contact_sheet` is
    the file name of a picture of all outputs, None for no such picture. With `is_shard` it makes a
    part of the run, whose other parts are made elsewhere under the same id. `share` is the label
    among whose values slots are divided, None where they are not.
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
        is_shard: bool = False,
        share: str | None = None,
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
        self.is_shard = is_shard
        self.share = share
        self.cancel_token = current_token()
        self.cancel_token.is_watched = True
        self.slots = FairSlots(in_flight)
        self.submitted = 0
        # Folders of which most is gone, by their address: nothing is stored there, nor fetched.
        self.away: dict[str, Unreachable] = {}
        self.began: datetime | None = None
        """When this try began, by the ledger's clock; a run that is retried keeps its id."""
        # By step and job: what no later output may look like, where the step checks for that.
        self.seen: dict[str, dict[str, tuple[NamedAppearance, ...]]] = {}
        self._least_wait = least_wait

    @property
    def leaves_requests(self) -> bool:
        """Whether what is at RunComfy stays there when the run is told to stop."""
        return self.collects_only or self.cancel_token.hands_over

    def share_of(self, job: Job) -> str:
        """Return for whom a job takes a slot; empty where slots are not divided."""
        return "" if self.share is None else share_of(self.share, job.labels)

    def time_left(self, age: float) -> float:
        """Return the seconds for which a request of this age is still waited for."""
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
class Provenance:
    """By which attempt a job's outputs were made, for how much in US dollars, stored when."""

    request_id: str | None
    attempt: int
    cost_usd: float | None
    stored_at: datetime


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
