"""The values that travel: an item, the job made from it, its media and its outputs.

All are frozen. A *job* is one request to be paid for; `JobState` and `ALLOWED` are its whole
state machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

MediaKind = Literal["image", "video", "audio"]
Pointer = tuple[str | int, ...]
"""Where a value stands in a job's inputs: `("image_urls", 0)`."""


class Stage(StrEnum):
    """The six stages by the names that the Prefect UI, logs and errors use."""

    VALIDATE = "validate"
    UPLOAD_INPUTS = "upload-inputs"
    SUBMIT = "submit"
    POLL = "poll"
    FETCH = "fetch"
    PERSIST = "persist"


class JobState(StrEnum):
    """Where a job stands (ours); RunComfy's own word is called *status*."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    IN_QUEUE = "in_queue"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    PERSISTED = "persisted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    IN_DOUBT = "in_doubt"
    EXPIRED = "expired"


_AT_RUNCOMFY = {JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS}
_ENDS_THERE = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}

ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    # Back to planned: the POST is known never to have been accepted.
    JobState.PLANNED: frozenset({JobState.SUBMITTING, JobState.FAILED}),
    JobState.SUBMITTING: frozenset(
        {JobState.PLANNED, JobState.SUBMITTED, JobState.FAILED, JobState.IN_DOUBT}
    ),
    JobState.SUBMITTED: frozenset(_AT_RUNCOMFY - {JobState.SUBMITTED} | _ENDS_THERE),
    JobState.IN_QUEUE: frozenset({JobState.IN_PROGRESS} | _ENDS_THERE),
    # Back to the queue: RunComfy moves a request there when a worker of its own dies.
    JobState.IN_PROGRESS: frozenset({JobState.IN_QUEUE} | _ENDS_THERE),
    JobState.COMPLETED: frozenset({JobState.PERSISTED, JobState.EXPIRED, JobState.FAILED}),
    # A stored file that is gone is brought back; when RunComfy has dropped it too, it is lost.
    JobState.PERSISTED: frozenset({JobState.EXPIRED}),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    # The human answer: the request id was found, or the submission was lost.
    JobState.IN_DOUBT: frozenset({JobState.SUBMITTED, JobState.FAILED}),
    JobState.EXPIRED: frozenset(),
}
"""Which state may follow which; the ledger refuses every other step."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a pipeline works on. `name` stands for it in names, logs and errors."""

    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job's outputs go: a folder (local path or `s3://…`) and a name template.

    `scope` holds what the template may use; `index` and `ext` are added for each output.
    """

    folder: str
    name: str
    scope: Mapping[str, Any]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Job:
    """One request to be paid for, as the pipeline asks for it: rendered, not yet checked.

    `inputs` is the model's input with media still as their origins (path, `s3://`, `https://`).
    `settings` are the matrix values, for people. `source` is `file:line` of the step.
    """

    pipeline: str
    item: str
    step: str
    model_id: str
    inputs: Mapping[str, Any]
    placement: Placement
    variant: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def label(self) -> str:
        """The job in a few words, for run names, logs and errors: `cat · edit · 1:1`."""
        return " · ".join([self.item, self.step, *(str(value) for value in self.settings.values())])


@dataclass(frozen=True, slots=True)
class Media:
    """One media input of a job: where it came from and what its bytes are."""

    pointer: Pointer
    origin: str
    kind: MediaKind
    sha256: str
    bytes: int
    media_type: str


@dataclass(frozen=True, slots=True, weakref_slot=True)
class CheckedJob:
    """A job that the model would accept, with the key under which the ledger knows it.

    `estimate_usd` is None when the price is unknown, which is never the same as free.
    """

    job: Job
    key: str
    media: tuple[Media, ...]
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One output on local disk, whole and of a known type, not yet at its final place."""

    index: int
    path: str
    sha256: str
    bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """One output under its final name."""

    index: int
    uri: str
    sha256: str
    bytes: int
    media_type: str
