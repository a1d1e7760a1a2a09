"""The values that travel: an item, the job made from it, its media and its outputs.

All are frozen. A *job* is one request to be paid for; `JobState` and `ALLOWED` are its whole
state machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

MediaKind = Literal["image", "video", "audio"]
Pointer = tuple[str | int, ...]
"""Where a value stands in a job's inputs: `("image_urls", 0)`."""


PENDING = "\ufdd0pending:"
"""How the address of an output begins that has not been made yet: `pending:image:edit-0`.

With a character that no text has: a prompt may speak of what is pending.
"""


def takes_pending(value: Any) -> bool:
    """Tell whether there is an output in a value that has not been made yet."""
    left = [value]
    while left:
        match left.pop():
            case str() as text if PENDING in text:
                return True
            case Mapping() as fields:
                left.extend(fields.values())
            case list() as entries:
                left.extend(entries)
    return False


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


AT_RUNCOMFY = frozenset({JobState.SUBMITTED, JobState.IN_QUEUE, JobState.IN_PROGRESS})
_ENDS_THERE = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}

ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    # Back to planned: the POST is known never to have been accepted.
    JobState.PLANNED: frozenset({JobState.SUBMITTING, JobState.FAILED}),
    JobState.SUBMITTING: frozenset(
        {JobState.PLANNED, JobState.SUBMITTED, JobState.FAILED, JobState.IN_DOUBT}
    ),
    JobState.SUBMITTED: frozenset(AT_RUNCOMFY - {JobState.SUBMITTED} | _ENDS_THERE),
    JobState.IN_QUEUE: frozenset({JobState.IN_PROGRESS} | _ENDS_THERE),
    # Back to the queue: RunComfy moves a request there when a worker of its own dies.
    JobState.IN_PROGRESS: frozenset({JobState.IN_QUEUE} | _ENDS_THERE),
    JobState.COMPLETED: frozenset({JobState.PERSISTED, JobState.EXPIRED, JobState.FAILED}),
    # Also when its file is gone: a share that is not mounted tonight is there again tomorrow.
    JobState.PERSISTED: frozenset(),
    # A person took it for lost, and then its answer came: it is paid for.
    JobState.FAILED: frozenset({JobState.SUBMITTED}),
    JobState.CANCELLED: frozenset(),
    # The human answer: the request id was found, or the submission was lost.
    JobState.IN_DOUBT: frozenset({JobState.SUBMITTED, JobState.FAILED}),
    # It turns up after all, or a person gives it up.
    JobState.EXPIRED: frozenset(
        {JobState.COMPLETED, JobState.PERSISTED, JobState.CANCELLED, JobState.FAILED}
    ),
}
"""Which state may follow which; the ledger refuses every other step."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a pipeline works on. `name` stands for it in names, logs and errors."""

    name: str
    fields: Mapping[str, Any]


OnConflict = Literal["keep", "replace", "version"]
"""What happens to a file of somebody else's that lies where an output is to go."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job's outputs go: a folder (local path or `s3://…`) and a name template.

    `scope` holds what the template may use; `index` and `ext` are added for each output. `root` is
    the part of a local folder that the pipeline itself writes out, empty for all of it: what lies
    below comes from items' values, and must not lead out of it by a symbolic link. `accept` names
    what is taken beside pictures, videos and sounds.
    """

    folder: str
    name: str
    scope: Mapping[str, Any]
    on_conflict: OnConflict = "version"
    root: str = ""
    accept: tuple[Literal["svg"], ...] = ()


@dataclass(frozen=True, slots=True)
class Preparation:
    """What may be done to a copy of a medium before a model gets it; the original stays as it is.

    `convert` is the picture format for what is in another one, `downscale` lets a picture that is
    too large be made smaller.
    """

    convert: Literal["jpeg", "png", "webp"] | None = None
    downscale: bool = False


@dataclass(frozen=True, slots=True)
class ContentChecks:
    """What an output has to show before it counts; sizes are in pixels.

    `aspect_ratio`: the one that was asked for. `again` is how many further attempts are paid for
    when an output is rejected.
    """

    min_width: int = 0
    min_height: int = 0
    aspect_ratio: bool = False
    not_blank: bool = False
    not_input: bool = False
    not_duplicate: bool = False
    again: int = 0


class Written(Protocol):
    """Where a job's step was written, for messages about its fields."""

    def where(self, field: str) -> str:
        """Name the place and the path of a field such as `image_urls[0]`, as people look for it."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Job:
    """One request to be paid for, as the pipeline asks for it: rendered, not yet checked.

    `inputs` is the model's input with media still as their origins (path, `s3://`, `https://`).
    `settings` are the matrix values, for people; `labels` say whose it is, sorted by name. `source`
    is `file:line` of the step, `written` the place of each of its fields. `part` counts the jobs of
    a step that fans out, from 0.
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
    part: int | None = None
    preparation: Preparation = Preparation()
    checks: ContentChecks | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    written: Written | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The job in a few words, for run names, logs and errors: `cat · edit · 1:1`."""
        told = [self.item, self.step, *(str(value) for value in self.settings.values())]
        return " · ".join(told if self.part is None else [*told, f"{self.part + 1}"])

    @property
    def again(self) -> int:
        """How many further attempts are paid for when an output is rejected."""
        return self.checks.again if self.checks else 0


@dataclass(frozen=True, slots=True)
class Media:
    """One media input of a job: where it came from and what its bytes are.

    `conversion` names what is done to a copy before it is submitted (`jpeg`), empty for nothing;
    the other values are the original's.
    """

    pointer: Pointer
    origin: str
    kind: MediaKind
    sha256: str
    bytes: int
    media_type: str
    conversion: str = ""


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
class MediaInfo:
    """What a media file shows when it is opened; None is what it does not show.

    `media_type` is the type with what is inside known: an MP4 without pictures is a sound.
    `width` and `height` are in pixels as a viewer sees them, `duration` is in seconds.
    `orientation` is EXIF's (1 upright, 2 to 8 mirrored or turned). `flaw` says why the file is
    not whole, as the end of a sentence that begins with its name; empty when it is.
    """

    media_type: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    fps: float | None = None
    orientation: int = 1
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What the bytes of a media file are, and what they show when they are opened.

    `sha256` is empty for an input that is larger than anything RunComfy takes: it is not read.
    """

    sha256: str
    bytes: int
    info: MediaInfo

    @property
    def media_type(self) -> str:
        """The media type by content; empty when it is no medium that is known."""
        return self.info.media_type


@dataclass(frozen=True, slots=True)
class FetchedFile(FileInfo):
    """One output on local disk, whole and of a known type, not yet at its final place."""

    index: int
    path: str


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """One output under its final name.

    `width` and `height` are in pixels, `duration` in seconds; only who has just stored it knows
    them, and the sidecar.
    """

    index: int
    uri: str
    sha256: str
    bytes: int
    media_type: str
    width: int | None = field(default=None, compare=False)
    height: int | None = field(default=None, compare=False)
    duration: float | None = field(default=None, compare=False)
